import Foundation

/// A rectangle in whole pixels; left and top may be negative.
public struct Box: Equatable, Hashable, Sendable {
    public let left: Int
    public let top: Int
    public let width: Int
    public let height: Int

    public init(left: Int, top: Int, width: Int, height: Int) {
        self.left = left
        self.top = top
        self.width = width
        self.height = height
    }

    /// Vision's rectangle (0 to 1, the origin at the lower left) in pixels of a picture; each side is at least 1.
    ///
    /// Throws `EdgeStRAError.data` where a number is not finite or far outside the picture, or there is no such picture.
    public init(normalizedX x: Double, y: Double, width: Double, height: Double, in size: PixelSize) throws {
        guard [x, y, width, height].allSatisfy({ abs($0) <= 16 }) else {
            throw EdgeStRAError.data(
                "a normalised rectangle must have numbers around 0 to 1, but is (\(x), \(y), \(width), \(height))")
        }
        try Picture.check(size)
        let (pixelsHigh, pixelsWide) = (Double(size.height), Double(size.width))
        self.init(
            left: wholeNumber(x * pixelsWide), top: wholeNumber((1 - y - height) * pixelsHigh),
            width: max(1, wholeNumber(width * pixelsWide)), height: max(1, wholeNumber(height * pixelsHigh)))
    }

    /// In pixels; `Int.max` or `Int.min` where it is more than an `Int` holds.
    public var area: Int {
        let (product, overflow) = width.multipliedReportingOverflow(by: height)
        guard overflow else { return product }
        return (width < 0) == (height < 0) ? Int.max : Int.min
    }

    /// Common area over joint area, 0 to 1.
    public func overlap(with other: Box) -> Double {
        let wide = Box.common(left, width, other.left, other.width)
        let high = Box.common(top, height, other.top, other.height)
        let joint = size + other.size - wide * high
        return joint > 0 ? wide * high / joint : 0
    }

    // Double, since no box is too large for it: these are numbers from outside.
    private var size: Double { Double(width) * Double(height) }

    private static func common(_ start: Int, _ length: Int, _ otherStart: Int, _ otherLength: Int) -> Double {
        let end = min(Double(start) + Double(length), Double(otherStart) + Double(otherLength))
        return max(0, end - Double(max(start, otherStart)))
    }

    /// Beyond this, sums of coordinates could overflow; no camera comes near.
    static let largest = 1 << 28

    func checkTouches(_ size: PixelSize) throws {
        let numbers = [left, top, width, height]
        let bounded = numbers.allSatisfy { -Box.largest <= $0 && $0 <= Box.largest }
        guard bounded, min(width, height) >= 1,
            -width < left, left < size.width, -height < top, top < size.height
        else {
            throw EdgeStRAError.data(
                "a box must touch the picture of \(size.width) x \(size.height), but is "
                    + "(\(left), \(top), \(width), \(height)); detect it on this picture")
        }
    }
}

/// Which rows and columns of a picture make up a crop; an index may come more than once.
public struct Crop: Equatable, Sendable {
    public let rows: [Int]
    public let columns: [Int]

    public var size: PixelSize { PixelSize(height: rows.count, width: columns.count) }

    /// The square around a box's centre, with the side (longer side) x (1 + margin).
    ///
    /// Where the square reaches over the border, the edge's pixels are repeated: the face keeps its place and its
    /// aspect. As `crop_with_margin` in apps/detect.py. Throws `EdgeStRAError.data` where the box is empty or does
    /// not touch the picture, where the margin leaves nothing, or where the square is too large.
    public static func square(around box: Box, margin: Double = 0, in size: PixelSize) throws -> Crop {
        try Picture.check(size)
        try box.checkTouches(size)
        guard margin > -1, margin <= 4 else {
            throw EdgeStRAError.data(
                "a margin must be above -1 and at most 4 (a part of the box's side), but is \(margin)")
        }
        let side = max(1, wholeNumber(Double(max(box.width, box.height)) * (1 + margin)))
        try Picture.check(PixelSize(height: side, width: side))
        let firstRow = wholeNumber(Double(box.top) + Double(box.height - side) / 2)
        let firstColumn = wholeNumber(Double(box.left) + Double(box.width - side) / 2)
        return Crop(
            rows: (firstRow..<firstRow + side).map { min(max($0, 0), size.height - 1) },
            columns: (firstColumn..<firstColumn + side).map { min(max($0, 0), size.width - 1) })
    }

    /// The part of a box that lies in the picture, for people: their crops keep the box's own shape.
    ///
    /// As `clipped` in apps/placement.py. Throws `EdgeStRAError.data` where the box is empty or outside the picture.
    public static func inside(_ box: Box, in size: PixelSize) throws -> Crop {
        try Picture.check(size)
        try box.checkTouches(size)
        return Crop(
            rows: Array(max(box.top, 0)..<min(box.top + box.height, size.height)),
            columns: Array(max(box.left, 0)..<min(box.left + box.width, size.width)))
    }

    func check(inside size: PixelSize) throws {
        let fits = rows.allSatisfy { $0 >= 0 && $0 < size.height } && columns.allSatisfy { $0 >= 0 && $0 < size.width }
        guard fits, !rows.isEmpty, !columns.isEmpty else {
            throw EdgeStRAError.data(
                "a crop must lie in the picture of \(size.width) x \(size.height), but does not; make it for this picture"
            )
        }
    }
}

/// Ties go to the even neighbour, as Python's `round` has it.
func wholeNumber(_ value: Double) -> Int {
    Int(value.rounded(.toNearestOrEven))
}
