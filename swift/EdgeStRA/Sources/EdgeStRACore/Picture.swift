import Foundation

/// Height and width in pixels.
public struct PixelSize: Equatable, Hashable, Sendable {
    public let height: Int
    public let width: Int

    public init(height: Int, width: Int) {
        self.height = height
        self.width = width
    }
}

/// Bytes [height, width, channels], row by row, channels interleaved: 1 (grey) or 3 (RGB).
public struct Picture: Equatable, Sendable {
    public static let maxPixels = 100_000_000

    public let size: PixelSize
    public let channels: Int
    public let pixels: [UInt8]

    /// Throws `EdgeStRAError.data` where the number of bytes is not height x width x channels.
    public init(size: PixelSize, channels: Int, pixels: [UInt8]) throws {
        try Picture.check(size)
        guard channels == 1 || channels == 3 else {
            throw EdgeStRAError.data("a picture must have 1 channel (grey) or 3 (RGB), but has \(channels)")
        }
        guard pixels.count == size.height * size.width * channels else {
            throw EdgeStRAError.data(
                "a picture of \(size.width) x \(size.height) with \(channels) channels must have "
                    + "\(size.height * size.width * channels) bytes, but has \(pixels.count); pass its rows without padding"
            )
        }
        self.size = size
        self.channels = channels
        self.pixels = pixels
    }

    /// The chosen rows and columns of a camera's frame: bytes B, G, R, A, with rows of `bytesPerRow`, as RGB.
    ///
    /// Throws `EdgeStRAError.data` where the memory is too short for the size, or an index is outside the picture.
    public init(bgra: UnsafeRawBufferPointer, bytesPerRow: Int, size: PixelSize, taking crop: Crop) throws {
        try Picture.check(size)
        try crop.check(inside: size)
        guard bytesPerRow >= 4 * size.width, bytesPerRow <= 1 << 24,
            bgra.count >= (size.height - 1) * bytesPerRow + 4 * size.width
        else {
            throw EdgeStRAError.data(
                "a BGRA frame of \(size.width) x \(size.height) must have rows of at least \(4 * size.width) bytes, "
                    + "but has \(bytesPerRow) bytes a row and \(bgra.count) in all")
        }
        var rgb = [UInt8]()
        rgb.reserveCapacity(crop.rows.count * crop.columns.count * 3)
        for row in crop.rows {
            for column in crop.columns {
                let start = row * bytesPerRow + 4 * column
                rgb.append(bgra[start + 2])
                rgb.append(bgra[start + 1])
                rgb.append(bgra[start])
            }
        }
        try self.init(size: crop.size, channels: 3, pixels: rgb)
    }

    /// The chosen rows and columns. Throws `EdgeStRAError.data` where an index is outside the picture.
    public func taking(_ crop: Crop) throws -> Picture {
        try crop.check(inside: size)
        var taken = [UInt8]()
        taken.reserveCapacity(crop.rows.count * crop.columns.count * channels)
        for row in crop.rows {
            for column in crop.columns {
                let start = (row * size.width + column) * channels
                taken.append(contentsOf: pixels[start..<start + channels])
            }
        }
        return try Picture(size: crop.size, channels: channels, pixels: taken)
    }

    static func check(_ size: PixelSize) throws {
        let largest = maxPixels
        guard size.height >= 1, size.width >= 1, size.height <= largest, size.width <= largest / size.height else {
            throw EdgeStRAError.data(
                "a picture must have 1 to \(largest) pixels, but is \(size.width) x \(size.height)")
        }
    }
}
