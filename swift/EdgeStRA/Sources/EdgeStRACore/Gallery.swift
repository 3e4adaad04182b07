import Foundation

/// An identity and how far its nearest embedding is: 0 to 2.
public struct Match: Equatable, Sendable {
    public let name: String
    public let distance: Double
}

/// Known people: embeddings of unit length by name, all of one model.
///
/// Embeddings of people are personal data: keep the file on the device, and let people be removed.
public struct Gallery: Equatable, Sendable {
    public static let maxNameLength = 64
    /// In all identities together; with `maxNumbers` this keeps the file below `maxFileBytes`.
    public static let maxEmbeddings = 1 << 14
    /// Numbers in all embeddings together: 16,384 embeddings of 512.
    public static let maxNumbers = 8 << 20
    public static let maxDimension = 4096

    /// Which model the embeddings are of: another model's do not compare.
    public let modelSHA256: String
    public let dimension: Int
    public private(set) var embeddings: [String: [[Float]]] = [:]
    private var units: [String: [[Double]]] = [:]
    private let capacity: Int

    /// An empty gallery. Throws `EdgeStRAError.data` where the digest is no SHA-256 or the length is out of range.
    public init(modelSHA256: String, dimension: Int) throws {
        try self.init(modelSHA256: modelSHA256, dimension: dimension, maxEmbeddings: Gallery.maxEmbeddings)
    }

    /// With a lower limit, for the tests.
    init(modelSHA256: String, dimension: Int, maxEmbeddings: Int) throws {
        guard modelSHA256.utf8.count == 64, modelSHA256.allSatisfy({ "0123456789abcdef".contains($0) }) else {
            throw EdgeStRAError.data(
                "a model's SHA-256 must be 64 hexadecimal digits in lower case, but is \(quoted(modelSHA256))")
        }
        guard (1...Gallery.maxDimension).contains(dimension) else {
            throw EdgeStRAError.data("embeddings must have 1 to \(Gallery.maxDimension) numbers, but have \(dimension)")
        }
        self.modelSHA256 = modelSHA256
        self.dimension = dimension
        capacity = min(maxEmbeddings, Gallery.maxNumbers / dimension)
    }

    /// All names, by their code points.
    public var names: [String] { embeddings.keys.sorted(by: precedes) }
    public var isEmpty: Bool { embeddings.isEmpty }
    /// Of embeddings, kept beside them: to count them at each `add` would make reading a file quadratic.
    private(set) var count = 0

    /// Adds one embedding to an identity, new or known.
    ///
    /// Throws `EdgeStRAError.data` where the name is blank or too long, where the embedding has another length or no
    /// direction, or where the gallery is full; the gallery is then as it was.
    public mutating func add(_ embedding: [Float], to name: String) throws {
        try Gallery.check(name: name)
        let unit = try checkedUnit(embedding)
        guard count < capacity else {
            throw EdgeStRAError.data(
                "a gallery must have at most \(capacity) embeddings, and has them; remove somebody first")
        }
        embeddings[name, default: []].append(embedding)
        units[name, default: []].append(unit)
        count += 1
    }

    /// Forgets an identity with all its embeddings. Throws `EdgeStRAError.data` where there is none of that name.
    public mutating func remove(_ name: String) throws {
        guard let removed = embeddings.removeValue(forKey: name) else {
            throw EdgeStRAError.data("\(quoted(name)) must be in the gallery to be removed, but is not")
        }
        count -= removed.count
        units.removeValue(forKey: name)
    }

    /// All identities, the nearest first, each with the distance of its nearest embedding; of equals the first name.
    public func ranked(_ embedding: [Float]) throws -> [Match] {
        let asked = try checkedUnit(embedding)
        let matches = units.map { name, shown in
            Match(name: name, distance: shown.map { distance(unit: asked, $0) }.min() ?? .infinity)
        }
        return matches.sorted { $0.distance != $1.distance ? $0.distance < $1.distance : precedes($0.name, $1.name) }
    }

    /// The nearest identity where it is no farther than the threshold (0 to 2), else nil: unknown.
    public func match(_ embedding: [Float], threshold: Double) throws -> Match? {
        guard (0...2).contains(threshold) else {
            throw EdgeStRAError.data("a threshold must be a distance from 0 to 2, but is \(threshold)")
        }
        return try ranked(embedding).first { $0.distance <= threshold }
    }

    private func checkedUnit(_ embedding: [Float]) throws -> [Double] {
        guard embedding.count == dimension else {
            throw EdgeStRAError.data(
                "an embedding of this gallery must have \(dimension) numbers, but has \(embedding.count); is it of its model?"
            )
        }
        return try unitVector(embedding)
    }

    static func check(name: String) throws {
        let scalars = name.unicodeScalars
        // Not CharacterSet.controlCharacters, which holds the joiners of Persian, Indic and emoji names, too.
        let printable = !scalars.contains {
            [.control, .lineSeparator, .paragraphSeparator].contains($0.properties.generalCategory)
        }
        guard (1...maxNameLength).contains(scalars.count), printable,
            !name.trimmingCharacters(in: .whitespaces).isEmpty
        else {
            throw EdgeStRAError.data(
                "a name must have 1 to \(maxNameLength) printable characters, but is \(quoted(name))")
        }
    }
}

/// The order of code points, which is Python's.
func precedes(_ a: String, _ b: String) -> Bool {
    a.unicodeScalars.lexicographicallyPrecedes(b.unicodeScalars)
}
