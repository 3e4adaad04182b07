import Foundation

/// Probabilities of logits. Throws `EdgeStRAError.data` where there are none, or one is not finite.
public func softmax(_ logits: [Float]) throws -> [Float] {
    guard let highest = logits.max(), logits.allSatisfy({ $0.isFinite }) else {
        throw EdgeStRAError.data("logits must be finite numbers, at least one, but are \(logits.prefix(8))")
    }
    let powers = logits.map { exp(Double($0) - Double(highest)) }
    let sum = powers.reduce(0, +)
    return powers.map { Float($0 / sum) }
}

/// The label of the highest probability, the first of equal ones.
///
/// Throws `EdgeStRAError.artifact` where labels and probabilities differ in number, or there are none.
public func topLabel(_ probabilities: [Double], labels: [String]) throws -> String {
    guard probabilities.count == labels.count, let highest = probabilities.max(),
        let place = probabilities.firstIndex(of: highest)
    else {
        throw EdgeStRAError.artifact(
            "the model must give \(labels.count) finite numbers, one for each label, but gave \(probabilities.count)")
    }
    return labels[place]
}
