#if canImport(CoreML) && canImport(Vision)
import CoreVideo
import EdgeStRACore
import Vision

/// Where faces and people are, by Apple's Vision, in whole pixels of an upright frame; the largest first.
///
/// The expression model was trained on squares like those of YuNet's boxes; Vision's boxes may be tighter or wider.
/// Throws what Vision throws.
public func detectFaces(_ frame: CVPixelBuffer) throws -> [Box] {
    let request = VNDetectFaceRectanglesRequest()
    return try detect(request, frame) { $0.results?.map(\.boundingBox) ?? [] }
}

/// Whole bodies, not upper halves alone: re-identification was trained on whole people.
public func detectPeople(_ frame: CVPixelBuffer) throws -> [Box] {
    let request = VNDetectHumanRectanglesRequest()
    request.upperBodyOnly = false
    return try detect(request, frame) { $0.results?.map(\.boundingBox) ?? [] }
}

private func detect<Request: VNRequest>(
    _ request: Request, _ frame: CVPixelBuffer, _ found: (Request) -> [CGRect]
) throws -> [Box] {
    try signposter.withIntervalSignpost("detect") {
        try VNImageRequestHandler(cvPixelBuffer: frame, orientation: .up).perform([request])
    }
    let boxes = try found(request).map { rect in
        try Box(
            normalizedX: rect.origin.x, y: rect.origin.y, width: rect.size.width, height: rect.size.height,
            in: frame.size)
    }
    return boxes.sorted { $0.area > $1.area }
}
#endif
