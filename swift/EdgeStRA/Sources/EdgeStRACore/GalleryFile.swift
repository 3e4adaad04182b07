import Foundation

/// A gallery as a file: JSON, the embeddings in base64 as little-endian 32-bit floats.
extension Gallery {
    public static let fileFormat = "edge-stra.gallery/1"
    public static let maxFileBytes = 64 << 20

    private struct File: Codable {
        struct Identity: Codable {
            let name: String
            let embeddings: [Data]
        }

        let format: String
        let modelSHA256: String
        let dimension: Int
        let identities: [Identity]

        private enum CodingKeys: String, CodingKey {
            case format
            case modelSHA256 = "model_sha256"
            case dimension, identities
        }
    }

    /// Writes beside and renames, so that no half-written file is ever seen; on a phone encrypted while it is locked.
    ///
    /// Throws `EdgeStRAError.output` where the place can't be written, `EdgeStRAError.gallery` above the size limit.
    public func write(to url: URL) throws {
        let identities = names.map { name in
            File.Identity(name: name, embeddings: embeddings[name, default: []].map(bytes))
        }
        let file = File(
            format: Gallery.fileFormat, modelSHA256: modelSHA256, dimension: dimension, identities: identities)
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys]
        var options: Data.WritingOptions = [.atomic]
        #if os(iOS)
        options.insert(.completeFileProtection)
        #endif
        do {
            let data = try encoder.encode(file)
            guard data.count <= Gallery.maxFileBytes else { throw Gallery.tooLarge(url) }
            try data.write(to: url, options: options)
        } catch let error as CocoaError {
            throw EdgeStRAError.output(
                "\(url.lastPathComponent) must be a place that can be written, but: \(error.localizedDescription)")
        }
    }

    /// Reads and checks a file of this model's embeddings.
    ///
    /// Throws `EdgeStRAError.gallery` where it is absent, damaged, too large, of another version or of another model.
    public init(contentsOf url: URL, modelSHA256 wanted: String) throws {
        let file = try Gallery.decode(try Gallery.limitedData(url), url)
        guard file.format == Gallery.fileFormat else {
            throw EdgeStRAError.gallery(
                "\(url.lastPathComponent) must be of format \(Gallery.fileFormat), but says \(quoted(file.format)); "
                    + "read it with the version that wrote it, or enrol anew")
        }
        guard file.modelSHA256 == wanted else {
            throw EdgeStRAError.gallery(
                "\(url.lastPathComponent) must be of the model \(wanted.prefix(12))..., but is of "
                    + "\(quoted(String(file.modelSHA256.prefix(12))))...; embeddings of two models do not compare, enrol anew"
            )
        }
        do {
            try self.init(modelSHA256: file.modelSHA256, dimension: file.dimension)
            for identity in file.identities {
                guard embeddings[identity.name] == nil, !identity.embeddings.isEmpty else {
                    throw EdgeStRAError.data("\(quoted(identity.name)) must come once, with an embedding")
                }
                for data in identity.embeddings { try add(floats(data), to: identity.name) }
            }
        } catch let error as EdgeStRAError {
            throw EdgeStRAError.gallery("\(url.lastPathComponent) is damaged: \(error.message)")
        }
    }

    private static func decode(_ data: Data, _ url: URL) throws -> File {
        do {
            return try JSONDecoder().decode(File.self, from: data)
        } catch let error as DecodingError {
            throw EdgeStRAError.gallery(
                "\(url.lastPathComponent) must be a gallery, but: \(inWords(error)); restore it, or enrol anew")
        }
    }

    private static func limitedData(_ url: URL) throws -> Data {
        do {
            let handle = try FileHandle(forReadingFrom: url)
            defer { try? handle.close() }
            let data = try handle.read(upToCount: maxFileBytes + 1) ?? Data()
            guard data.count <= maxFileBytes else { throw tooLarge(url) }
            return data
        } catch let error as CocoaError {
            throw EdgeStRAError.gallery(
                "\(url.lastPathComponent) must be a gallery's file, but: \(error.localizedDescription)")
        }
    }

    private static func tooLarge(_ url: URL) -> EdgeStRAError {
        .gallery("\(url.lastPathComponent) must have at most \(maxFileBytes >> 20) MiB, but has more; refused")
    }
}

func bytes(_ embedding: [Float]) -> Data {
    embedding.reduce(into: Data()) { data, number in
        withUnsafeBytes(of: number.bitPattern.littleEndian) { data.append(contentsOf: $0) }
    }
}

/// The inverse of `bytes`. Throws `EdgeStRAError.data` where the number of bytes is not a multiple of 4.
func floats(_ data: Data) throws -> [Float] {
    guard data.count % 4 == 0 else {
        throw EdgeStRAError.data("an embedding must have 4 bytes for each number, but has \(data.count)")
    }
    return data.withUnsafeBytes { raw in
        (0..<data.count / 4).map {
            Float(bitPattern: UInt32(littleEndian: raw.loadUnaligned(fromByteOffset: 4 * $0, as: UInt32.self)))
        }
    }
}
