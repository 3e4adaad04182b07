#if canImport(CoreML)
import CoreML
import CoreVideo
import CryptoKit
import EdgeStRACore
import Foundation

/// Where Core ML may run a model; which is fastest differs by phone and precision, so measure.
public enum ComputeUnits: String, CaseIterable, Identifiable, Sendable {
    case all, cpuAndNeuralEngine, cpuAndGPU, cpuOnly

    public var id: String { rawValue }

    public var coreML: MLComputeUnits {
        switch self {
        case .all: return .all
        case .cpuAndNeuralEngine: return .cpuAndNeuralEngine
        case .cpuAndGPU: return .cpuAndGPU
        case .cpuOnly: return .cpuOnly
        }
    }
}

/// A Core ML model with its checked specification; every name is read from the model.
public struct LoadedModel {
    public let specification: ArtifactSpecification
    /// Of the weights and the specification together: which model a gallery's embeddings are of.
    public let sha256: String
    let model: MLModel
    let imageName: String

    /// Loads `NAME.mlpackage` (compiled first) or `NAME.mlmodelc`.
    ///
    /// Throws `EdgeStRAError.artifact` where the model has no specification of ours, or takes other pictures than it says.
    public static func load(contentsOf url: URL, units: ComputeUnits = .all) async throws -> LoadedModel {
        let configuration = MLModelConfiguration()
        configuration.computeUnits = units.coreML
        guard url.pathExtension != "mlmodelc" else {
            return try LoadedModel(try await MLModel.load(contentsOf: url, configuration: configuration), at: url)
        }
        // Into a temporary folder that the system empties; not removed here, since weights may stay mapped from it.
        let compiled = try await MLModel.compileModel(at: url)
        return try LoadedModel(try await MLModel.load(contentsOf: compiled, configuration: configuration), at: url)
    }

    init(_ model: MLModel, at url: URL) throws {
        let description = model.modelDescription
        let metadata = description.metadata[.creatorDefinedKey] as? [String: String]
        guard let json = metadata?[ArtifactSpecification.metadataKey] else {
            throw EdgeStRAError.artifact(
                "\(url.lastPathComponent) must carry '\(ArtifactSpecification.metadataKey)' in its metadata, but does not; "
                    + "export it with edge-stra")
        }
        specification = try ArtifactSpecification(json: json)
        imageName = try LoadedModel.checkedImage(description, specification.model)
        sha256 = try LoadedModel.digest(of: url, json)
        self.model = model
    }

    /// The one image input's name, its size and pixel format held to the specification.
    private static func checkedImage(
        _ description: MLModelDescription, _ specification: ModelSpecification
    ) throws -> String {
        let wanted = specification.input
        let format = wanted.color == .grey ? kCVPixelFormatType_OneComponent8 : kCVPixelFormatType_32BGRA
        let inputs = description.inputDescriptionsByName
        guard inputs.count == 1, let (name, feature) = inputs.first, let image = feature.imageConstraint else {
            throw EdgeStRAError.artifact(
                "\(quoted(specification.name)) must have one input, an image, but has \(inputs.keys.sorted()); export it again"
            )
        }
        guard image.pixelsHigh == wanted.size.height, image.pixelsWide == wanted.size.width,
            image.pixelFormatType == format
        else {
            throw EdgeStRAError.artifact(
                "\(quoted(specification.name)) must take \(wanted.color.rawValue) of \(wanted.size.width) x \(wanted.size.height), "
                    + "but takes \(image.pixelsWide) x \(image.pixelsHigh) of another kind; export it again")
        }
        return name
    }

    /// SHA-256 of the weights' file, which compiling copies as it is, and the specification.
    private static func digest(of url: URL, _ json: String) throws -> String {
        let place = url.pathExtension == "mlmodelc" ? "weights/weight.bin" : "Data/com.apple.CoreML/weights/weight.bin"
        guard let weights = try? Data(contentsOf: url.appendingPathComponent(place), options: .alwaysMapped) else {
            throw EdgeStRAError.artifact(
                "\(url.lastPathComponent) must be an ML Program with \(place), but has none; export it with edge-stra")
        }
        var digest = SHA256()
        digest.update(data: weights)
        digest.update(data: Data(json.utf8))
        return digest.finalize().map { String(format: "%02x", $0) }.joined()
    }
}
#endif
