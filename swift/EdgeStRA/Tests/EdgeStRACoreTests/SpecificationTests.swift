import Foundation
import XCTest

@testable import EdgeStRACore

final class SpecificationTests: XCTestCase {
    private struct File: Decodable {
        struct Accepted: Decodable {
            struct Model: Decodable {
                struct Input: Decodable {
                    let sizeHw: [Int]
                    let color: String
                    let meanRgb: [Float]
                    let stdRgb: [Float]
                }

                let name: String
                let task: String
                let input: Input
                let labels: [String]
                let output: String
            }

            let json: String
            let model: Model
            let quantize: String
        }

        let accepted: [Accepted]
        let refused: [String]
    }

    func testWhatPythonWritesIsRead() throws {
        let cases = try vectors("specification", as: File.self).accepted
        XCTAssertEqual(cases.count, 4)
        for one in cases {
            let found = try ArtifactSpecification(json: one.json)
            XCTAssertEqual(found.quantize, one.quantize)
            XCTAssertEqual(found.model.name, one.model.name)
            XCTAssertEqual(found.model.labels, one.model.labels)
            XCTAssertEqual(found.model.output.rawValue, one.model.output)
            XCTAssertEqual([found.model.input.size.height, found.model.input.size.width], one.model.input.sizeHw)
            XCTAssertEqual(found.model.input.color.rawValue, one.model.input.color)
            XCTAssertEqual(found.model.input.meanRGB, one.model.input.meanRgb)
            XCTAssertEqual(found.model.input.stdRGB, one.model.input.stdRgb)
            XCTAssertNoThrow(try found.model.check(task: one.model.task))
            assertRefused(#"must be for the task "other""#) { try found.model.check(task: "other") }
        }
    }

    func testWhatPythonRefusesIsRefused() throws {
        let cases = try vectors("specification", as: File.self).refused
        XCTAssertEqual(cases.count, 21)
        for one in cases { assertRefused("export it again", one) { try ArtifactSpecification(json: one) } }
        for text in ["", "null", "[]", "{", #"{"format": 1}"#, String(repeating: " ", count: 2 << 20)] {
            assertRefused("export it again") { try ArtifactSpecification(json: text) }
        }
    }
}
