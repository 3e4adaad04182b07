import AVFoundation
import EdgeStRA
import Foundation

/// What the views show. Pictures live for one frame and are never written; galleries hold embeddings alone.
@MainActor
final class DemoState: ObservableObject {
    @Published private(set) var shown: [Shown] = []
    @Published private(set) var names: [String] = []
    @Published private(set) var knowsPeople = false
    @Published private(set) var frameSize = CGSize(width: 480, height: 640)
    @Published private(set) var framesPerSecond = 0.0
    @Published var message: String?
    @Published var threshold = 0.6
    @Published var units = ComputeUnits.all
    @Published var modelURL: URL?
    @Published var position = AVCaptureDevice.Position.front

    let camera = Camera()
    let modelURLs = DemoState.bundledModels()
    private var recognition: Recognition?
    private var lastTimeS: Double?

    init() { modelURL = modelURLs.first }

    func startCamera() async {
        do { try await camera.start(position) } catch { message = error.localizedDescription }
    }

    /// Loads the chosen model; until it is there, nothing is recognised.
    func loadModel() async {
        (recognition, shown, names, knowsPeople) = (nil, [], [], false)
        guard let modelURL else {
            message = "Put an exported .mlpackage into the folder Models and build again."
            return
        }
        do {
            let made = try Recognition(try await LoadedModel.load(contentsOf: modelURL, units: units))
            (names, knowsPeople) = (await made.names, await made.knowsPeople)
            (recognition, message) = (made, nil)
        } catch { message = error.localizedDescription }
    }

    /// Runs as long as the view: one frame after the other.
    func recognise() async {
        for await frame in camera.frames {
            guard let recognition else { continue }
            do {
                shown = try await recognition.process(frame, threshold: threshold)
            } catch {
                message = error.localizedDescription
            }
            frameSize = CGSize(width: CVPixelBufferGetWidth(frame.buffer), height: CVPixelBufferGetHeight(frame.buffer))
            count(frame)
        }
    }

    func remember(_ name: String) async { await change { try await $0.remember(name) } }

    func forget(_ name: String) async { await change { try await $0.forget(name) } }

    private func change(_ edit: (Recognition) async throws -> Void) async {
        guard let recognition else { return }
        do { try await edit(recognition) } catch { message = error.localizedDescription }
        names = await recognition.names
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
