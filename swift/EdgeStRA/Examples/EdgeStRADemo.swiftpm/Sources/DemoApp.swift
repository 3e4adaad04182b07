import AVFoundation
import EdgeStRA
import EdgeStRACore
import SwiftUI

@main
struct DemoApp: App {
    var body: some Scene {
        WindowGroup { DemoView() }
    }
}

struct DemoView: View {
    @StateObject private var state = DemoState()
    @State private var newName = ""

    var body: some View {
        VStack(spacing: 8) {
            ZStack {
                CameraPreview(session: state.camera.session)
                OverlayView(shown: state.shown, frameSize: state.frameSize, mirrored: state.position == .front)
            }
            .overlay(alignment: .topTrailing) {
                Text(String(format: "%.0f FPS", state.framesPerSecond)).monospacedDigit().padding(8).background(
                    .thinMaterial)
            }
            ForEach(state.messages, id: \.self) { Text($0).font(.footnote).foregroundColor(.red) }
            choices
            if state.knowsPeople { people }
        }
        .padding()
        .task { await state.recognise() }
        .task(id: state.position) { await state.startCamera() }
        .task(id: [state.modelURL?.path ?? "", state.units.rawValue]) { await state.loadModel() }
        .onDisappear { state.camera.stop() }
    }

    private var choices: some View {
        HStack {
            Picker("Model", selection: $state.modelURL) {
                ForEach(state.modelURLs, id: \.self) { url in
                    Text(url.deletingPathExtension().lastPathComponent).tag(Optional(url))
                }
            }
            Picker("Runs on", selection: $state.units) {
                ForEach(ComputeUnits.allCases) { Text($0.rawValue).tag($0) }
            }
            Button {
                state.position = state.position == .front ? .back : .front
            } label: {
                Label("Other camera", systemImage: "arrow.triangle.2.circlepath.camera").labelStyle(.iconOnly)
            }
        }
    }

    private var people: some View {
        VStack {
            HStack {
                TextField("Name of the largest person", text: $newName)
                Button("Remember") {
                    let name = newName.trimmingCharacters(in: .whitespacesAndNewlines)  // keyboards add a space
                    Task { await state.remember(name) }
                }
            }
            HStack {
                Text(String(format: "Unknown above %.2f", state.threshold)).font(.footnote)
                Slider(value: $state.threshold, in: 0...2)
            }
            ForEach(state.names, id: \.self) { name in
                HStack {
                    Text(name)
                    Spacer()
                    Button("Forget", role: .destructive) { Task { await state.forget(name) } }
                }
            }
        }
    }
}

/// Boxes and words, where the preview shows the frame: whole, centred, in its own aspect, the front camera's mirrored.
struct OverlayView: View {
    let shown: [Shown]
    let frameSize: CGSize
    let mirrored: Bool

    var body: some View {
        GeometryReader { place in
            let scale = min(place.size.width / frameSize.width, place.size.height / frameSize.height)
            let left = (place.size.width - scale * frameSize.width) / 2
            let top = (place.size.height - scale * frameSize.height) / 2
            ForEach(shown) { one in
                let (width, height) = (scale * CGFloat(one.box.width), scale * CGFloat(one.box.height))
                let x = scale * CGFloat(one.box.left)
                Rectangle()
                    .stroke(.yellow, lineWidth: 2)
                    .frame(width: width, height: height)
                    .overlay(alignment: .topLeading) {
                        Text(one.text).font(.callout).padding(2).background(.thinMaterial).fixedSize()
                    }
                    .position(
                        x: left + (mirrored ? scale * frameSize.width - x - width : x) + width / 2,
                        y: top + scale * CGFloat(one.box.top) + height / 2)
            }
        }
    }
}

/// The camera's own picture, drawn by the system.
struct CameraPreview: UIViewRepresentable {
    final class PreviewView: UIView {
        override static var layerClass: AnyClass { AVCaptureVideoPreviewLayer.self }
    }

    let session: AVCaptureSession

    func makeUIView(context: Context) -> PreviewView {
        let view = PreviewView()
        if let layer = view.layer as? AVCaptureVideoPreviewLayer {
            layer.session = session
            layer.videoGravity = .resizeAspect
        }
        return view
    }

    func updateUIView(_ view: PreviewView, context: Context) {}
}
