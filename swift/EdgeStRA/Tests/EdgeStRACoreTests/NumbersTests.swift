import Foundation
import XCTest

@testable import EdgeStRACore

/// Softmax, distances, smoothing and ranking against Python.
final class NumbersTests: XCTestCase {
    private struct Softmax: Decodable {
        struct Case: Decodable {
            let logits: [Float]
            let probabilities: [Double]
            let top: Int
        }

        let tolerance: Double
        let softmax: [Case]
    }

    private struct Distances: Decodable {
        struct Pair: Decodable {
            let a: [Float]
            let b: [Float]
            let distance: Double?
        }

        let tolerance: Double
        let distance: [Pair]
        let refused: [Pair]
    }

    private struct Smooth: Decodable {
        struct Step: Decodable {
            let timeS: Double
            let probabilities: [Double]
            let smoothed: [Double]
        }

        struct Case: Decodable {
            let tauS: Double
            let gapS: Double
            let steps: [Step]
        }

        struct State: Decodable {
            let probabilities: [Double]
            let timeS: Double
        }

        struct Refused: Decodable {
            let state: State
            let probabilities: [Double]
            let timeS: Double
            let tauS: Double
            let gapS: Double
        }

        let tolerance: Double
        let tauS: Double
        let gapS: Double
        let smooth: [Case]
        let refused: [Refused]
    }

    private struct Ranking: Decodable {
        struct Row: Decodable {
            let embedding: [Float]
            let identity: Int
            let camera: Int

            var labelled: LabelledEmbedding {
                LabelledEmbedding(embedding: embedding, identity: identity, camera: camera)
            }
        }

        struct Report: Decodable {
            let map: Double
            let rank1: Double
            let rank5: Double
            let rank10: Double
            let queries: Int
        }

        struct Case: Decodable {
            let queries: [Row]
            let gallery: [Row]
            let report: Report?
        }

        let tolerance: Double
        let rank: [Case]
        let refused: [Case]
    }

    func testSoftmaxEqualsPython() throws {
        let file = try vectors("probabilities", as: Softmax.self)
        XCTAssertEqual(file.softmax.count, 9)
        for one in file.softmax {
            let found = try softmax(one.logits).map(Double.init)
            assertClose(found, one.probabilities, file.tolerance, "\(one.logits)")
            let labels = one.logits.indices.map { "label \($0)" }
            XCTAssertEqual(try topLabel(found, labels: labels), "label \(one.top)")
        }
        assertRefused("finite numbers") { try softmax([]) }
        assertRefused("finite numbers") { try softmax([1, .nan]) }
        assertRefused("finite numbers") { try softmax([1, .infinity]) }
        assertRefused("must give 3 finite numbers") { try topLabel([0.5, 0.5], labels: ["a", "b", "c"]) }
        assertRefused("must give 0") { try topLabel([], labels: []) }
    }

    func testDistancesEqualPython() throws {
        let file = try vectors("distances", as: Distances.self)
        XCTAssertEqual(file.distance.count, 10)
        for one in file.distance {
            XCTAssertEqual(try distance(one.a, one.b), try XCTUnwrap(one.distance), accuracy: file.tolerance)
            XCTAssertEqual(try distance(one.a, one.a), 0)
        }
        XCTAssertEqual(file.refused.count, 3)
        for one in file.refused { assertRefused(" must ") { try distance(one.a, one.b) } }
        assertRefused("finite length above 0") { try distance([.nan, 1], [1, 1]) }
        assertRefused("finite length above 0") { try distance([1], [.infinity]) }
    }

    func testSmoothingEqualsPython() throws {
        let file = try vectors("smoothing", as: Smooth.self)
        XCTAssertEqual(file.tauS, smoothingTauS)
        XCTAssertEqual(file.gapS, smoothingGapS)
        XCTAssertEqual(file.smooth.count, 4)
        for one in file.smooth {
            var state: Smoothed?
            for step in one.steps {
                state = try smooth(state, step.probabilities, atS: step.timeS, tauS: one.tauS, gapS: one.gapS)
                assertClose(try XCTUnwrap(state).probabilities, step.smoothed, file.tolerance, "tau \(one.tauS)")
            }
        }
        XCTAssertEqual(file.refused.count, 7)
        for one in file.refused {
            let state = Smoothed(probabilities: one.state.probabilities, timeS: one.state.timeS)
            assertRefused(" must ", "\(one)") {
                try smooth(state, one.probabilities, atS: one.timeS, tauS: one.tauS, gapS: one.gapS)
            }
        }
        assertRefused("finite seconds") { try smooth(nil, [1], atS: .nan) }
        assertRefused("sum 1") { try smooth(nil, [.nan, 1], atS: 0) }
    }

    func testRankingEqualsPython() throws {
        let file = try vectors("ranking", as: Ranking.self)
        XCTAssertEqual(file.rank.count, 8)
        for one in file.rank {
            let (found, expected) = (
                try rank(one.queries.map(\.labelled), in: one.gallery.map(\.labelled)), try XCTUnwrap(one.report)
            )
            assertClose(
                [found.meanAveragePrecision, found.rank1, found.rank5, found.rank10],
                [expected.map, expected.rank1, expected.rank5, expected.rank10], file.tolerance)
            XCTAssertEqual(found.queries, expected.queries)
        }
        XCTAssertEqual(file.refused.count, 3)
        for one in file.refused {
            assertRefused("query") { try rank(one.queries.map(\.labelled), in: one.gallery.map(\.labelled)) }
        }
        let query = LabelledEmbedding(embedding: [1, 0], identity: 1, camera: 1)
        for embedding: [Float] in [[1], [.nan, 0]] {
            assertRefused("finite numbers, of one length") {
                try rank([query], in: [LabelledEmbedding(embedding: embedding, identity: 1, camera: 2)])
            }
        }
    }
}
