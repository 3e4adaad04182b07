import Foundation

/// What smoothing remembers of a face between two frames.
public struct Smoothed: Equatable, Sendable {
    public let probabilities: [Double]
    public let timeS: Double

    public init(probabilities: [Double], timeS: Double) {
        self.probabilities = probabilities
        self.timeS = timeS
    }
}

public let smoothingTauS = 0.5
public let smoothingGapS = 1.0

/// The exponential moving average of probabilities, with a time constant in seconds; as `smooth` in apps/smoothing.py.
///
/// The new frame weighs 1 - exp(-dt / tau), so that the result does not depend on the frame rate; `tauS` 0 switches
/// smoothing off. It starts anew without a last state and after more than `gapS` without a frame. Throws
/// `EdgeStRAError.data` where the numbers are no probabilities or changed in number, where time runs backwards, or
/// where tau or the gap is negative or not finite.
public func smooth(
    _ last: Smoothed?, _ probabilities: [Double], atS timeS: Double, tauS: Double = smoothingTauS,
    gapS: Double = smoothingGapS
) throws -> Smoothed {
    guard tauS.isFinite, gapS.isFinite, tauS >= 0, gapS >= 0, timeS.isFinite else {
        throw EdgeStRAError.data(
            "time, tau and gap must be finite seconds, tau and gap not below 0, but are \(timeS), \(tauS) and \(gapS)")
    }
    guard !probabilities.isEmpty, probabilities.allSatisfy({ $0 >= 0 }), abs(probabilities.reduce(0, +) - 1) <= 1e-2
    else {
        throw EdgeStRAError.data(
            "probabilities must be at least 0 and have the sum 1, but are \(probabilities.prefix(8)); pass the softmax's result"
        )
    }
    guard let last else { return Smoothed(probabilities: probabilities, timeS: timeS) }
    guard last.probabilities.count == probabilities.count else {
        throw EdgeStRAError.data(
            "the number of probabilities must stay \(last.probabilities.count), but is \(probabilities.count); "
                + "start without a state when the model changes")
    }
    let passedS = timeS - last.timeS
    guard passedS >= 0 else {
        throw EdgeStRAError.data(
            "a frame must not be older than the last, but is by \(-passedS) s; pass a clock that never runs backwards")
    }
    if passedS > gapS { return Smoothed(probabilities: probabilities, timeS: timeS) }
    let weight = tauS == 0 ? 1 : 1 - exp(-passedS / tauS)
    let mixed = zip(last.probabilities, probabilities).map { $0 + weight * ($1 - $0) }
    return Smoothed(probabilities: mixed, timeS: timeS)
}
