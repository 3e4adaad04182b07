import Foundation
import XCTest

@testable import EdgeStRACore

final class PreprocessingTests: XCTestCase {
    private struct File: Decodable {
        struct Pixels: Decodable {
            let source: Pattern
            let result: Held
        }

        struct Tensor: Decodable {
            let source: Pattern
            let input: Input
            let values: [Float]
        }

        struct Input: Decodable {
            let sizeHw: [Int]
            let color: String
            let meanRgb: [Double]
            let stdRgb: [Double]
        }

        let resizeExact: [Pixels]
        let grey: Pixels
        let toInput: [Tensor]
    }

    func testResizingEqualsPythonInEveryBit() throws {
        let cases = try vectors("preprocessing", as: File.self).resizeExact
        XCTAssertEqual(cases.count, 30)
        for one in cases {
            let target = PixelSize(height: one.result.height, width: one.result.width)
            one.result.check(try one.source.drawn().resizedExact(to: target), "\(one.source)")
        }
    }

    func testGreyEqualsPythonInEveryBit() throws {
        let one = try vectors("preprocessing", as: File.self).grey
        one.result.check(try one.source.drawn().grey(), "grey")
        let known: [([UInt8], UInt8)] = [
            ([255, 0, 0], 76), ([0, 255, 0], 150), ([0, 0, 255], 29), ([10, 100, 200], 84),
        ]
        for (rgb, expected) in known {
            XCTAssertEqual(
                try Picture(size: PixelSize(height: 1, width: 1), channels: 3, pixels: rgb).grey().pixels, [expected])
        }
    }

    func testTheTensorEqualsPythonInEveryBit() throws {
        let cases = try vectors("preprocessing", as: File.self).toInput
        XCTAssertEqual(cases.count, 3)
        for one in cases {
            let json: [String: Any] = [
                "size_hw": one.input.sizeHw, "color": one.input.color, "mean_rgb": one.input.meanRgb,
                "std_rgb": one.input.stdRgb,
            ]
            let input = try JSONDecoder().decode(
                InputSpecification.self, from: JSONSerialization.data(withJSONObject: json))
            XCTAssertEqual(try one.source.drawn().tensor(for: input), one.values, "\(one.source)")
            let prepared = try one.source.drawn().prepared(for: input)
            XCTAssertEqual(prepared.channels, one.input.color == "grey" ? 1 : 3)
        }
    }

    func testACameraFrameIsReadAsRGBWithoutItsPadding() throws {
        let size = PixelSize(height: 2, width: 2)
        var frame: [UInt8] = [3, 2, 1, 255, 6, 5, 4, 255, 99, 99]  // B, G, R, A, and two bytes of padding
        frame += [9, 8, 7, 255, 12, 11, 10, 255]
        let whole = Crop(rows: [0, 1], columns: [0, 1])
        let picture = try frame.withUnsafeBytes { try Picture(bgra: $0, bytesPerRow: 10, size: size, taking: whole) }
        XCTAssertEqual(picture.pixels, Array(1...12))
        let corner = Crop(rows: [1, 1], columns: [1])
        let repeated = try frame.withUnsafeBytes { try Picture(bgra: $0, bytesPerRow: 10, size: size, taking: corner) }
        XCTAssertEqual(repeated.pixels, [10, 11, 12, 10, 11, 12])
        XCTAssertEqual(try picture.taking(corner), repeated)
    }

    func testBadPicturesAreRefused() throws {
        let size = PixelSize(height: 2, width: 2)
        assertRefused("must have 12 bytes, but has 11") {
            try Picture(size: size, channels: 3, pixels: [UInt8](repeating: 0, count: 11))
        }
        assertRefused("1 channel (grey) or 3") { try Picture(size: size, channels: 4, pixels: []) }
        for (height, width) in [(0, 4), (4, -1), (1 << 20, 1 << 20), (Int.max, Int.max)] {
            assertRefused("1 to 100000000 pixels") {
                try Picture(size: PixelSize(height: height, width: width), channels: 1, pixels: [])
            }
        }
        let whole = Crop(rows: [0, 1], columns: [0, 1])
        for (count, bytesPerRow) in [(15, 8), (16, 7), (0, 8), (16, 1 << 30)] {
            assertRefused("must have rows of at least 8 bytes") {
                try [UInt8](repeating: 0, count: count).withUnsafeBytes {
                    try Picture(bgra: $0, bytesPerRow: bytesPerRow, size: size, taking: whole)
                }
            }
        }
        let grey = try Picture(size: size, channels: 1, pixels: [1, 2, 3, 4])
        for crop in [Crop(rows: [2], columns: [0]), Crop(rows: [0], columns: [-1]), Crop(rows: [], columns: [0])] {
            assertRefused("must lie in the picture of 2 x 2") { try grey.taking(crop) }
        }
        assertRefused("1 to 100000000 pixels") { try grey.resizedExact(to: PixelSize(height: 0, width: 3)) }
        let thin = try Picture(
            size: PixelSize(height: 1_000_000, width: 1), channels: 1, pixels: [UInt8](repeating: 0, count: 1_000_000))
        assertRefused("1 to 100000000 pixels") { try thin.resizedExact(to: PixelSize(height: 2, width: 128)) }
        let rgb = try JSONDecoder().decode(
            InputSpecification.self,
            from: Data(#"{"size_hw": [8, 8], "color": "rgb", "mean_rgb": [0, 0, 0], "std_rgb": [1, 1, 1]}"#.utf8))
        assertRefused("takes RGB, but the picture has 1 channel") { try grey.prepared(for: rgb) }
    }
}
