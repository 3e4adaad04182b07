import Foundation

/// What an artifact says of itself inside, under the metadata key `edge_stra.json`.
public struct ArtifactSpecification: Decodable, Equatable, Sendable {
    public static let format = "edge-stra.artifact/1"
    public static let metadataKey = "edge_stra.json"
    static let maxBytes = 1 << 20

    public let format: String
    public let quantize: String
    public let model: ModelSpecification

    /// Reads and checks the JSON. Throws `EdgeStRAError.artifact` where it is damaged, of another format or too large.
    public init(json: String) throws {
        guard json.utf8.count <= ArtifactSpecification.maxBytes else {
            throw EdgeStRAError.artifact(
                "a model's specification must have at most 1 MiB, but has \(json.utf8.count) bytes; export it again")
        }
        do {
            self = try JSONDecoder().decode(ArtifactSpecification.self, from: Data(json.utf8))
        } catch let error as DecodingError {
            throw EdgeStRAError.artifact(
                "the model specification must be complete, but: \(inWords(error)); export it again")
        }
        guard format == ArtifactSpecification.format else {
            throw EdgeStRAError.artifact(
                "the model must be of format \(ArtifactSpecification.format), but says \(quoted(format)); export it again"
            )
        }
        try model.check()
    }
}

/// What a model is for and what goes in and out; `labels` is empty for an embedder.
public struct ModelSpecification: Decodable, Equatable, Sendable {
    public enum Output: String, Decodable, Sendable { case logits, embedding }

    public let name: String
    public let task: String
    public let input: InputSpecification
    public let labels: [String]
    public let output: Output

    /// Throws `EdgeStRAError.artifact` where the model was made for another task ("fer", "reid").
    public func check(task wanted: String) throws {
        guard task == wanted else {
            throw EdgeStRAError.artifact(
                "the model must be for the task \(quoted(wanted)), but \(quoted(name)) is for \(quoted(task)); give a \(wanted) artifact"
            )
        }
    }

    func check() throws {
        let (height, width) = (input.size.height, input.size.width)
        guard 8 <= min(height, width), max(height, width) <= 4096 else {
            throw EdgeStRAError.artifact(
                "\(quoted(name)) must have an input of 8 to 4096 pixels, but has \(width) x \(height); export it again")
        }
        guard input.meanRGB.count == 3, input.stdRGB.count == 3, input.stdRGB.allSatisfy({ $0 > 0 }),
            (input.meanRGB + input.stdRGB).allSatisfy({ $0.isFinite })
        else {
            throw EdgeStRAError.artifact(
                "\(quoted(name)) must have three finite numbers as mean and as std, std above 0; export it again")
        }
    }
}

/// How pixels become the input: resized whole, grey where `color` says so, divided by 255, normalised in RGB order.
public struct InputSpecification: Decodable, Equatable, Sendable {
    public enum Color: String, Decodable, Sendable { case rgb, grey }

    public let size: PixelSize
    public let color: Color
    public let meanRGB: [Float]
    public let stdRGB: [Float]

    private enum CodingKeys: String, CodingKey {
        case size = "size_hw"
        case color
        case meanRGB = "mean_rgb"
        case stdRGB = "std_rgb"
    }

    public init(from decoder: any Decoder) throws {
        let fields = try decoder.container(keyedBy: CodingKeys.self)
        let sides = try fields.decode([Int].self, forKey: .size)
        guard sides.count == 2 else {
            throw DecodingError.dataCorruptedError(
                forKey: .size, in: fields,
                debugDescription: "it must hold height and width, but holds \(sides.count) numbers")
        }
        size = PixelSize(height: sides[0], width: sides[1])
        color = try fields.decode(Color.self, forKey: .color)
        meanRGB = try fields.decode([Float].self, forKey: .meanRGB)
        stdRGB = try fields.decode([Float].self, forKey: .stdRGB)
    }
}

/// One line: which field, and what is wrong with it.
func inWords(_ error: DecodingError) -> String {
    func path(_ context: DecodingError.Context) -> String {
        context.codingPath.isEmpty ? "the whole" : context.codingPath.map(\.stringValue).joined(separator: ".")
    }
    switch error {
    case .keyNotFound(let key, let context): return "no \(quoted(key.stringValue)) in \(path(context))"
    case .typeMismatch(_, let context), .valueNotFound(_, let context), .dataCorrupted(let context):
        return "\(path(context)): \(context.debugDescription)"
    @unknown default: return "\(error)"
    }
}
