#if canImport(CoreML)
import CoreML
import CoreVideo
import EdgeStRACore
import Foundation
import os

/// Instruments shows these intervals under Points of Interest.
let signposter = OSSignposter(subsystem: "edge-stra", category: .pointsOfInterest)

/// Which expression a face shows: the probabilities in the model's order of labels, and the label of the highest.
public struct FaceExpression: Equatable, Sendable {
    public let box: Box
    public let labels: [String]
    public let probabilities: [Double]
    public let label: String
}

/// Expressions of faces; an actor, so that predictions never run on the main thread nor two at a time.
public actor ExpressionPredictor {
    public nonisolated let specification: ModelSpecification
    private let loaded: LoadedModel
    private let probabilitiesName: String

    /// Throws `EdgeStRAError.artifact` where the model is not a classifier of expressions with the labels it says.
    public init(_ loaded: LoadedModel) throws {
        let (model, description) = (loaded.specification.model, loaded.model.modelDescription)
        try model.check(task: "fer")
        let labels = description.classLabels as? [String] ?? model.labels
        guard let name = description.predictedProbabilitiesName, !labels.isEmpty, Set(labels) == Set(model.labels)
        else {
            throw EdgeStRAError.artifact(
                "\(quoted(model.name)) must be a classifier with the labels \(model.labels), but has \(labels); export it again"
            )
        }
        specification = model
        self.loaded = loaded
        probabilitiesName = name
    }

    /// The expressions of a frame's faces, in the order of the boxes. Throws `EdgeStRAError`.
    public func predict(_ frame: CVPixelBuffer, faces: [Box]) throws -> [FaceExpression] {
        let crops = try faces.map { try Crop.square(around: $0, in: frame.size) }
        return try zip(faces, outputs(loaded, frame, crops)).map { box, output in try expression(output, box) }
    }

    private func expression(_ output: any MLFeatureProvider, _ box: Box) throws -> FaceExpression {
        let shares = output.featureValue(for: probabilitiesName)?.dictionaryValue ?? [:]
        let probabilities = specification.labels.compactMap { shares[$0]?.doubleValue }
        guard probabilities.allSatisfy({ $0.isFinite }) else {
            throw EdgeStRAError.artifact(
                "\(quoted(specification.name)) must give finite probabilities, but gave \(probabilities); try other compute units"
            )
        }
        let label = try topLabel(probabilities, labels: specification.labels)
        return FaceExpression(box: box, labels: specification.labels, probabilities: probabilities, label: label)
    }
}

/// Embeddings of people, for `Gallery`.
public actor PersonEmbedder {
    public nonisolated let specification: ModelSpecification
    /// What a gallery of this model's embeddings is bound to.
    public nonisolated let sha256: String
    public nonisolated let dimension: Int
    private let loaded: LoadedModel
    private let embeddingName: String

    /// Throws `EdgeStRAError.artifact` where the model is not an embedder of people.
    public init(_ loaded: LoadedModel) throws {
        let model = loaded.specification.model
        try model.check(task: "reid")
        let outputs = loaded.model.modelDescription.outputDescriptionsByName
        guard model.output == .embedding, outputs.count == 1, let (name, feature) = outputs.first,
            let length = feature.multiArrayConstraint?.shape.last?.intValue, length > 0
        else {
            throw EdgeStRAError.artifact(
                "\(quoted(model.name)) must have one output, an embedding, but has \(outputs.keys.sorted()); export it again"
            )
        }
        specification = model
        sha256 = loaded.sha256
        dimension = length
        self.loaded = loaded
        embeddingName = name
    }

    /// The embeddings of a frame's people, in the order of the boxes. Throws `EdgeStRAError`.
    public func embed(_ frame: CVPixelBuffer, people: [Box]) throws -> [[Float]] {
        let crops = try people.map { try Crop.inside($0, in: frame.size) }
        return try outputs(loaded, frame, crops).map { output in
            guard let array = output.featureValue(for: embeddingName)?.multiArrayValue, array.count == dimension else {
                throw EdgeStRAError.artifact(
                    "\(quoted(specification.name)) must give \(dimension) numbers, but did not; export it again")
            }
            let embedding = (0..<dimension).map { array[$0].floatValue }
            _ = try unitVector(embedding)  // refuses what is not finite
            return embedding
        }
    }
}

/// The model's outputs for each crop of a frame, in one batch.
private func outputs(_ loaded: LoadedModel, _ frame: CVPixelBuffer, _ crops: [Crop]) throws -> [any MLFeatureProvider] {
    guard !crops.isEmpty else { return [] }
    let input = loaded.specification.model.input
    let inputs = try signposter.withIntervalSignpost("preprocess") {
        try crops.map { crop -> any MLFeatureProvider in
            let buffer = try frame.picture(taking: crop).prepared(for: input).pixelBuffer()
            return try MLDictionaryFeatureProvider(dictionary: [loaded.imageName: MLFeatureValue(pixelBuffer: buffer)])
        }
    }
    let batch = try signposter.withIntervalSignpost("predict") {
        try loaded.model.predictions(fromBatch: MLArrayBatchProvider(array: inputs))
    }
    return (0..<batch.count).map { batch.features(at: $0) }
}
#endif
