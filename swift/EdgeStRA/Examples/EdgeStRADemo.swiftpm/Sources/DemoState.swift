import AVFoundation
import Combine
import CoreVideo
import EdgeStRA
import Foundation

/// Where something went wrong: each part's message stays until that part succeeds.
enum Part: Int { case camera, model, frame, gallery }

/// What the views show. Pictures live for one frame and are never written; galleries hold embeddings alone.
@MainActor
final class DemoState: ObservableObject {
    @Published private(set) var shown: [Shown] = []
    @Published private(set) var names: [String] = []
    @Published private(set) var knowsPeople = false
    @Published private(set) var frameSize = CGSize(width: 480, height: 640)
    @Published private(set) var framesPerSecond = 0.0
    @Published private var problems: [Part: String] = [:]
    @Published var threshold = 0.6
    @Published var units = ComputeUnits.all
    @Published var modelURL: URL?
    @Published var position = AVCaptureDevice.Position.front

    let camera = Camera()
    let modelURLs = DemoState.bundledModels()
    private var recognition: Recognition?
    private var lastTimeS: Double?

    init() { modelURL = modelURLs.first }

    var messages: [String] { problems.sorted { $0.key.rawValue < $1.key.rawValue }.map(\.value) }

    func startCamera() async {
        do {
            try await camera.start(position)
            problems[.camera] = nil
        } catch { problems[.camera] = error.localizedDescription }
    }

    /// Loads the chosen model; until it is there, nothing is recognised.
    func loadModel() async {
        (recognition, shown, names, knowsPeople) = (nil, [], [], false)
        problems = problems.filter { $0.key == .camera }
        guard let modelURL else {
            problems[.model] = "Put an exported .mlpackage into the folder Models and build again."
            return
        }
        do {
            let made = try Recognition(try await LoadedModel.load(contentsOf: modelURL, units: units))
            let (known, people) = (await made.names, await made.knowsPeople)
            guard !Task.isCancelled else { return }  // another was chosen while this one loaded
            (recognition, names, knowsPeople) = (made, known, people)
        } catch {
            if !Task.isCancelled { problems[.model] = error.localizedDescription }
        }
    }

    /// Runs as long as the view: one frame after the other.
    func recognise() async {
        for await frame in camera.frames() {
            guard let recognition else { continue }
            do {
                let found = try await recognition.process(frame, threshold: threshold)
                guard self.recognition === recognition else { continue }  // another was chosen meanwhile
                (shown, problems[.frame]) = (found, nil)
            } catch {
                guard self.recognition === recognition else { continue }
                (shown, problems[.frame]) = ([], error.localizedDescription)  // old boxes belong to old pictures
            }
            frameSize = CGSize(width: CVPixelBufferGetWidth(frame.buffer), height: CVPixelBufferGetHeight(frame.buffer))
            count(frame)
        }
    }

    func remember(_ name: String) async { await change { try await $0.remember(name) } }

    func forget(_ name: String) async { await change { try await $0.forget(name) } }

    private func change(_ edit: (Recognition) async throws -> Void) async {
        guard let recognition else { return }
        var problem: String?
        do { try await edit(recognition) } catch { problem = error.localizedDescription }
        let known = await recognition.names
        guard self.recognition === recognition else { return }
        (names, problems[.gallery]) = (known, problem)
    }

    private func count(_ frame: Frame) {
        if let lastTimeS, frame.timeS > lastTimeS {
            let now = 1 / (frame.timeS - lastTimeS)
            framesPerSecond += 0.1 * (now - framesPerSecond)
        }
        lastTimeS = frame.timeS
    }

    /// The folder Models, wherever the build put it: beside the app's own files or in a bundle of the package.
    private static func bundledModels() -> [URL] {
        let nested = Bundle.main.urls(forResourcesWithExtension: "bundle", subdirectory: nil) ?? []
        let bundles = [Bundle.main] + nested.compactMap { Bundle(url: $0) }
        let found = bundles.flatMap { bundle in
            ["mlpackage", "mlmodelc"].flatMap {
                bundle.urls(forResourcesWithExtension: $0, subdirectory: "Models") ?? []
            }
        }
        return found.sorted { $0.lastPathComponent < $1.lastPathComponent }
    }
}
