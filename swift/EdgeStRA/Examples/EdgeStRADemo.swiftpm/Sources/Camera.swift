import AVFoundation
import CoreVideo

/// An upright frame as the camera sees it, BGRA, not mirrored, and its time in seconds.
struct Frame: @unchecked Sendable {  // the buffer is only read
    let buffer: CVPixelBuffer
    let timeS: Double
}

/// The camera's frames, the newest alone: whoever is slower than the camera misses frames and never lags.
final class Camera: NSObject, AVCaptureVideoDataOutputSampleBufferDelegate, @unchecked Sendable {
    let session = AVCaptureSession()
    private var continuation: AsyncStream<Frame>.Continuation?  // read and written on the queue alone
    private let queue = DispatchQueue(label: "camera")

    /// Frames from now on, for one reader; the reader before gets no more. A new stream each time, since a stream whose
    /// reader was cancelled, as when a view disappears, is over for good.
    func frames() -> AsyncStream<Frame> {
        AsyncStream(Frame.self, bufferingPolicy: .bufferingNewest(1)) { continuation in
            queue.async {
                self.continuation?.finish()
                self.continuation = continuation
            }
        }
    }

    /// Asks for permission and starts. Throws `CameraError` where the user says no or there is no camera.
    func start(_ position: AVCaptureDevice.Position) async throws {
        guard await AVCaptureDevice.requestAccess(for: .video) else { throw CameraError.refused }
        try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
            queue.async {
                done.resume(with: Result { try self.configure(position) })
            }
        }
    }

    func stop() {
        queue.async { self.session.stopRunning() }
    }

    private func configure(_ position: AVCaptureDevice.Position) throws {
        guard let device = AVCaptureDevice.default(.builtInWideAngleCamera, for: .video, position: position) else {
            throw CameraError.absent
        }
        let input = try AVCaptureDeviceInput(device: device)
        let output = AVCaptureVideoDataOutput()
        output.videoSettings = [kCVPixelBufferPixelFormatTypeKey as String: kCVPixelFormatType_32BGRA]
        output.alwaysDiscardsLateVideoFrames = true
        output.setSampleBufferDelegate(self, queue: queue)
        session.beginConfiguration()
        defer {
            session.commitConfiguration()
            session.startRunning()
        }
        session.inputs.forEach(session.removeInput)
        session.outputs.forEach(session.removeOutput)
        session.sessionPreset = .vga640x480
        guard session.canAddInput(input), session.canAddOutput(output) else { throw CameraError.absent }
        session.addInput(input)
        session.addOutput(output)
        if let connection = output.connection(with: .video) { upright(connection) }
    }

    private func upright(_ connection: AVCaptureConnection) {
        // Deprecated since iOS 17, and still the one that knows how a sensor sits: an angle counts from the sensor, and
        // not all of them are turned by 90 degrees.
        if connection.isVideoOrientationSupported { connection.videoOrientation = .portrait }
        if connection.isVideoMirroringSupported {
            connection.automaticallyAdjustsVideoMirroring = false
            connection.isVideoMirrored = false  // the models see what Python's apps see; the preview mirrors itself
        }
    }

    func captureOutput(
        _ output: AVCaptureOutput, didOutput sample: CMSampleBuffer, from connection: AVCaptureConnection
    ) {
        guard let buffer = CMSampleBufferGetImageBuffer(sample) else { return }
        let timeS = CMTimeGetSeconds(CMSampleBufferGetPresentationTimeStamp(sample))
        continuation?.yield(Frame(buffer: buffer, timeS: timeS))
    }
}

enum CameraError: LocalizedError {
    case refused, absent

    var errorDescription: String? {
        switch self {
        case .refused: return "The camera must be allowed for this app; allow it in Settings, Privacy, Camera."
        case .absent: return "This device must have a camera, but none can be opened; run the app on a phone."
        }
    }
}
