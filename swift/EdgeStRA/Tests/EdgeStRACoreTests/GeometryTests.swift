import Foundation
import XCTest

@testable import EdgeStRACore

final class GeometryTests: XCTestCase {
    private struct File: Decodable {
        struct Square: Decodable {
            let sizeHw: [Int]
            let boxXywh: [Int]
            let margin: Double
            let refused: Bool
            let rows: [Int]?
            let columns: [Int]?
        }

        struct Inside: Decodable {
            let sizeHw: [Int]
            let boxXywh: [Int]
            let refused: Bool
            let insideXywh: [Int]
        }

        let square: [Square]
        let inside: [Inside]
    }

    private func box(_ xywh: [Int]) -> Box { Box(left: xywh[0], top: xywh[1], width: xywh[2], height: xywh[3]) }

    private func size(_ hw: [Int]) -> PixelSize { PixelSize(height: hw[0], width: hw[1]) }

    func testSquaresAroundFacesEqualPython() throws {
        let cases = try vectors("geometry", as: File.self).square
        XCTAssertEqual(cases.count, 72)
        for one in cases {
            if one.refused {
                assertRefused(" must ", "\(one)") {
                    try Crop.square(around: box(one.boxXywh), margin: one.margin, in: size(one.sizeHw))
                }
                continue
            }
            let crop = try Crop.square(around: box(one.boxXywh), margin: one.margin, in: size(one.sizeHw))
            XCTAssertEqual(crop.rows, one.rows, "\(one)")
            XCTAssertEqual(crop.columns, one.columns, "\(one)")
        }
    }

    func testCropsOfPeopleEqualPython() throws {
        let cases = try vectors("geometry", as: File.self).inside
        XCTAssertEqual(cases.count, 17)
        for one in cases {
            if one.refused {
                assertRefused("must touch the picture", "\(one)") {
                    try Crop.inside(box(one.boxXywh), in: size(one.sizeHw))
                }
                continue
            }
            let (inside, crop) = (box(one.insideXywh), try Crop.inside(box(one.boxXywh), in: size(one.sizeHw)))
            XCTAssertEqual(crop.rows, Array(inside.top..<inside.top + inside.height), "\(one)")
            XCTAssertEqual(crop.columns, Array(inside.left..<inside.left + inside.width), "\(one)")
        }
    }

    func testBoxesBeyondReasonAreRefused() {
        let size = PixelSize(height: 48, width: 64)
        for wild in [
            Box(left: Int.min, top: 0, width: Int.max, height: 4), Box(left: 0, top: 0, width: 1, height: 1 << 40),
        ] {
            assertRefused("must touch the picture of 64 x 48") { try Crop.square(around: wild, in: size) }
            assertRefused("must touch the picture of 64 x 48") { try Crop.inside(wild, in: size) }
        }
        let wide = Box(left: 0, top: 0, width: 1 << 20, height: 4)
        assertRefused("1 to 100000000 pixels") { try Crop.square(around: wide, in: size) }
        assertRefused("a margin must be above -1") {
            try Crop.square(around: Box(left: 0, top: 0, width: 4, height: 4), margin: .nan, in: size)
        }
    }

    func testVisionsRectanglesHaveTheirOriginAtTheLowerLeft() throws {
        let size = PixelSize(height: 200, width: 100)
        XCTAssertEqual(
            try Box(normalizedX: 0.1, y: 0.75, width: 0.5, height: 0.25, in: size),
            Box(left: 10, top: 0, width: 50, height: 50))
        XCTAssertEqual(
            try Box(normalizedX: -0.1, y: 0, width: 0, height: 0.5, in: size),
            Box(left: -10, top: 100, width: 1, height: 100))
        assertRefused("numbers around 0 to 1") { try Box(normalizedX: .nan, y: 0, width: 1, height: 1, in: size) }
        assertRefused("numbers around 0 to 1") { try Box(normalizedX: 0, y: 0, width: 1e300, height: 1, in: size) }
        assertRefused("1 to 100000000 pixels") {
            try Box(normalizedX: 0, y: 0, width: 1, height: 1, in: PixelSize(height: Int.max, width: Int.max))
        }
    }

    func testOverlapIsCommonOverJointArea() {
        let a = Box(left: 0, top: 0, width: 10, height: 10)
        XCTAssertEqual(a.overlap(with: a), 1)
        XCTAssertEqual(a.overlap(with: Box(left: 5, top: 0, width: 10, height: 10)), 1 / 3, accuracy: 1e-12)
        XCTAssertEqual(a.overlap(with: Box(left: 10, top: 0, width: 10, height: 10)), 0)
        XCTAssertEqual(a.overlap(with: Box(left: 20, top: 20, width: 1, height: 1)), 0)
    }

    func testBoxesBeyondReasonAreMeasuredWithoutATrap() {
        let whole = Box(left: Int.min, top: Int.min, width: Int.max, height: Int.max)
        XCTAssertEqual(whole.area, Int.max)
        XCTAssertEqual(Box(left: 0, top: 0, width: Int.max, height: -2).area, Int.min)
        XCTAssertEqual(whole.overlap(with: whole), 1)
        XCTAssertEqual(whole.overlap(with: Box(left: Int.max, top: Int.max, width: Int.max, height: Int.max)), 0)
    }
}
