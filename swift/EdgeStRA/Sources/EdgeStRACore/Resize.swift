import Foundation

extension Picture {
    /// RGB to one channel, OpenCV's COLOR_RGB2GRAY in every bit: 0.299 R + 0.587 G + 0.114 B in 15 fractional bits.
    public func grey() throws -> Picture {
        guard channels == 3 else { return self }
        var bytes = [UInt8](repeating: 0, count: size.height * size.width)
        pixels.withUnsafeBufferPointer { rgb in
            for i in bytes.indices {
                let red: UInt32 = UInt32(rgb[3 * i]) * 9798
                let green: UInt32 = UInt32(rgb[3 * i + 1]) * 19235
                let blue: UInt32 = UInt32(rgb[3 * i + 2]) * 3735
                bytes[i] = UInt8((red + green + blue + (1 << 14)) >> 15)
            }
        }
        return try Picture(size: size, channels: 1, pixels: bytes)
    }

    /// Resizes as `resize_exact` in edge_stra/preprocess.py, bit for bit; halves larger pictures first, against aliasing.
    public func resizedExact(to target: PixelSize) throws -> Picture {
        try Picture.check(target)
        var picture = self
        while picture.size.height >= 2 * target.height && picture.size.width >= 2 * target.width {
            let half = PixelSize(height: picture.size.height / 2, width: picture.size.width / 2)
            picture = try picture.resizedOnce(to: half)
        }
        return try picture.resizedOnce(to: target)
    }

    /// OpenCV's INTER_LINEAR_EXACT: along rows in 8 fractional bits, down columns in 8 more, rounded once at the end.
    func resizedOnce(to target: PixelSize) throws -> Picture {
        guard target != size else { return self }
        try Picture.check(PixelSize(height: size.height, width: target.width))  // what lies between them
        let narrow = squeezed(to: target.width)  // (h, W, c)
        let rowLength = target.width * channels
        var bytes = [UInt8](repeating: 0, count: target.height * rowLength)  // (H, W, c)
        narrow.withUnsafeBufferPointer { source in
            for (row, tap) in taps(from: size.height, to: target.height).enumerated() {
                let near = tap.near * rowLength
                let far = tap.far * rowLength
                for i in 0..<rowLength {
                    let sum: UInt32 = source[near + i] * (256 - tap.weight) + source[far + i] * tap.weight
                    bytes[row * rowLength + i] = UInt8((sum + (1 << 15)) >> 16)
                }
            }
        }
        return try Picture(size: target, channels: channels, pixels: bytes)
    }

    /// Each row at its new width, in 1/256: [h, W, c].
    private func squeezed(to width: Int) -> [UInt32] {
        let across = taps(from: size.width, to: width)
        var narrow = [UInt32](repeating: 0, count: size.height * width * channels)
        pixels.withUnsafeBufferPointer { source in
            var out = 0
            for row in 0..<size.height {
                let start = row * size.width
                for tap in across {
                    let near = (start + tap.near) * channels
                    let far = (start + tap.far) * channels
                    for channel in 0..<channels {
                        let left = UInt32(source[near + channel]) * (256 - tap.weight)
                        let right = UInt32(source[far + channel]) * tap.weight
                        narrow[out] = left + right
                        out += 1
                    }
                }
            }
        }
        return narrow
    }
}

/// The two source pixels of an output pixel, and the weight of the far one in 1/256.
struct Tap {
    let near: Int
    let far: Int
    let weight: UInt32
}

/// Pixel centres at i + 1/2, clamped at both ends (resize_bitExact in OpenCV's modules/imgproc/src/resize.cpp).
func taps(from source: Int, to target: Int) -> [Tap] {
    let scale: Double = 1 / (Double(target) / Double(source))  // OpenCV inverts twice, and so rounds twice
    return (0..<target).map { i -> Tap in
        let place: Double = scale * (Double(i) + 0.5) - 0.5
        let near = Int(place.rounded(.down))
        if near < 0 { return Tap(near: 0, far: 0, weight: 0) }
        if near >= source - 1 { return Tap(near: source - 1, far: source - 1, weight: 0) }
        return Tap(near: near, far: near + 1, weight: UInt32(wholeNumber((place - Double(near)) * 256)))
    }
}
