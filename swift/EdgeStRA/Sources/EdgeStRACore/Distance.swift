import Foundation

/// The Euclidean distance of two embeddings after L2 normalisation: 0 (same direction) to 2 (opposite).
///
/// As `distance` in apps/reid.py. Throws `EdgeStRAError.data` where the two differ in length or one has no direction.
public func distance(_ a: [Float], _ b: [Float]) throws -> Double {
    guard a.count == b.count else {
        throw EdgeStRAError.data("two embeddings must be vectors of one length, but are \(a.count) and \(b.count) long")
    }
    return distance(unit: try unitVector(a), try unitVector(b))
}

/// In Double, so that the distance of an embedding to itself is 0 and not a rounding error.
public func unitVector(_ embedding: [Float]) throws -> [Double] {
    let length = embedding.reduce(0) { $0 + Double($1) * Double($1) }.squareRoot()
    guard length.isFinite, length > 0 else {
        throw EdgeStRAError.data(
            "an embedding must have a finite length above 0, but has \(length); embed the picture again")
    }
    return embedding.map { Double($0) / length }
}

func distance(unit a: [Double], _ b: [Double]) -> Double {
    zip(a, b).reduce(0) { $0 + ($1.0 - $1.1) * ($1.0 - $1.1) }.squareRoot()
}
