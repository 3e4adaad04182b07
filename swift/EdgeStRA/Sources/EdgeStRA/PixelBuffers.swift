#if canImport(CoreML)
import CoreVideo
import EdgeStRACore
import Foundation

extension CVPixelBuffer {
    public var size: PixelSize {
        PixelSize(height: CVPixelBufferGetHeight(self), width: CVPixelBufferGetWidth(self))
    }

    /// The crop as RGB bytes. Throws `EdgeStRAError.data` where the buffer is not 32BGRA.
    public func picture(taking crop: Crop) throws -> Picture {
        guard CVPixelBufferGetPixelFormatType(self) == kCVPixelFormatType_32BGRA else {
            throw EdgeStRAError.data(
                "a camera's frame must be 32BGRA, but is of another format; set videoSettings of AVCaptureVideoDataOutput"
            )
        }
        CVPixelBufferLockBaseAddress(self, .readOnly)
        defer { CVPixelBufferUnlockBaseAddress(self, .readOnly) }
        let bytesPerRow = CVPixelBufferGetBytesPerRow(self)
        guard let base = CVPixelBufferGetBaseAddress(self) else {
            throw EdgeStRAError.data(
                "a camera's frame must lie in memory, but has no address; pass it before it is released")
        }
        let bytes = UnsafeRawBufferPointer(start: base, count: size.height * bytesPerRow)
        return try Picture(bgra: bytes, bytesPerRow: bytesPerRow, size: size, taking: crop)
    }
}

extension Picture {
    /// A buffer as Core ML's image inputs take it: OneComponent8 for one channel, 32BGRA for three.
    public func pixelBuffer() throws -> CVPixelBuffer {
        let format = channels == 1 ? kCVPixelFormatType_OneComponent8 : kCVPixelFormatType_32BGRA
        let attributes: [String: Any] = [kCVPixelBufferIOSurfacePropertiesKey as String: [String: Any]()]
        var made: CVPixelBuffer?
        let status = CVPixelBufferCreate(
            kCFAllocatorDefault, size.width, size.height, format, attributes as CFDictionary, &made)
        guard status == kCVReturnSuccess, let buffer = made else {
            throw EdgeStRAError.data(
                "a buffer of \(size.width) x \(size.height) must be made, but Core Video says \(status); free some memory"
            )
        }
        CVPixelBufferLockBaseAddress(buffer, [])
        defer { CVPixelBufferUnlockBaseAddress(buffer, []) }
        guard let base = CVPixelBufferGetBaseAddress(buffer) else {
            throw EdgeStRAError.data("a new buffer must lie in memory, but has no address; free some memory")
        }
        let bytesPerRow = CVPixelBufferGetBytesPerRow(buffer)
        for row in 0..<size.height {
            let line = base.advanced(by: row * bytesPerRow).assumingMemoryBound(to: UInt8.self)
            for column in 0..<size.width {
                let start = (row * size.width + column) * channels
                guard channels == 3 else {
                    line[column] = pixels[start]
                    continue
                }
                line[4 * column] = pixels[start + 2]
                line[4 * column + 1] = pixels[start + 1]
                line[4 * column + 2] = pixels[start]
                line[4 * column + 3] = 255
            }
        }
        return buffer
    }
}
#endif
