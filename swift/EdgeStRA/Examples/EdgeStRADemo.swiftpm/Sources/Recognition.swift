import EdgeStRA
import EdgeStRACore
import Foundation

/// A box with what is written at it.
struct Shown: Identifiable, Sendable {
    let id: Int
    let box: Box
    let text: String
}

/// From a frame to boxes with words: one model at a time, one state of smoothing for each face, one gallery.
actor Recognition {
    private enum Model {
        case expressions(ExpressionPredictor)
        case people(PersonEmbedder)
    }

    private static let sameFace = 0.3  // the overlap above which a box is the last frame's face
    private let model: Model
    private var faces: [(box: Box, state: Smoothed)] = []
    private var gallery: Gallery?
    private let galleryFile: URL?
    private static let freshS = 2.0  // after which a person of the last frame may have left
    private var lastEmbedding: [Float]?
    private var lastSeen = Date.distantPast

    init(_ loaded: LoadedModel) throws {
        guard loaded.specification.model.task == "reid" else {
            model = .expressions(try ExpressionPredictor(loaded))
            galleryFile = nil
            return
        }
        let embedder = try PersonEmbedder(loaded)
        let file = try Recognition.galleries().appendingPathComponent("gallery-\(embedder.sha256.prefix(12)).json")
        model = .people(embedder)
        galleryFile = file
        gallery =
            FileManager.default.fileExists(atPath: file.path)
            ? try Gallery(contentsOf: file, modelSHA256: embedder.sha256)
            : try Gallery(modelSHA256: embedder.sha256, dimension: embedder.dimension)
    }

    /// The folder of galleries, which no backup takes to a cloud or a computer: the phone alone holds them.
    private static func galleries() throws -> URL {
        let support = try FileManager.default.url(
            for: .applicationSupportDirectory, in: .userDomainMask, appropriateFor: nil, create: true)
        var folder = support.appendingPathComponent("Galleries", isDirectory: true)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        var values = URLResourceValues()
        values.isExcludedFromBackup = true
        try folder.setResourceValues(values)
        return folder
    }

    var names: [String] { gallery?.names ?? [] }
    var knowsPeople: Bool { gallery != nil }

    func process(_ frame: Frame, threshold: Double) async throws -> [Shown] {
        switch model {
        case .expressions(let predictor):
            let found = try await predictor.predict(frame.buffer, faces: try detectFaces(frame.buffer))
            return try steady(found, frame.timeS)
        case .people(let embedder):
            // What is remembered stays the last frame's while this one is waited for: a tap may come in between.
            let boxes: [Box]
            let embeddings: [[Float]]
            do {
                boxes = try detectPeople(frame.buffer)
                embeddings = try await embedder.embed(frame.buffer, people: boxes)
            } catch {
                lastEmbedding = nil
                throw error
            }
            (lastEmbedding, lastSeen) = (embeddings.first, Date())  // of the largest person
            return try zip(boxes, embeddings).enumerated().map { id, person in
                let match = try gallery?.match(person.1, threshold: threshold)
                let text = match.map { String(format: "%@ %.2f", $0.name, $0.distance) } ?? "unknown"
                return Shown(id: id, box: person.0, text: text)
            }
        }
    }

    private func steady(_ found: [FaceExpression], _ timeS: Double) throws -> [Shown] {
        let before = faces
        faces = try found.map { face in
            let nearest = before.max { face.box.overlap(with: $0.box) < face.box.overlap(with: $1.box) }
            let same = nearest.map { face.box.overlap(with: $0.box) >= Recognition.sameFace } ?? false
            let state = try smooth(same ? nearest?.state : nil, face.probabilities, atS: timeS)
            return (face.box, state)
        }
        return try zip(found, faces).enumerated().map { id, pair in
            let probabilities = pair.1.state.probabilities
            let label = try topLabel(probabilities, labels: pair.0.labels)
            return Shown(
                id: id, box: pair.0.box, text: String(format: "%@ %.0f %%", label, 100 * (probabilities.max() ?? 0)))
        }
    }

    /// Adds the largest person of the last frame to the gallery, and writes it.
    func remember(_ name: String) throws {
        guard let lastEmbedding, Date().timeIntervalSince(lastSeen) < Recognition.freshS else {
            throw EdgeStRAError.data(
                "a person must be in the picture to be remembered, but none is; step back a little")
        }
        try change { try $0.add(lastEmbedding, to: name) }
    }

    func forget(_ name: String) throws {
        try change { try $0.remove(name) }
    }

    /// The gallery in memory changes only where the file did.
    private func change(_ edit: (inout Gallery) throws -> Void) throws {
        guard var changed = gallery, let galleryFile else { return }
        try edit(&changed)
        try changed.write(to: galleryFile)
        gallery = changed
    }
}
