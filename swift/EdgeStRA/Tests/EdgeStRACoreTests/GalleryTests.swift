import Foundation
import XCTest

@testable import EdgeStRACore

final class GalleryTests: XCTestCase {
    private struct File: Decodable {
        struct Identity: Decodable {
            let name: String
            let embeddings: [[Float]]
        }

        struct Place: Decodable {
            let name: String
            let distance: Double
        }

        struct Threshold: Decodable {
            let threshold: Double
            let name: String?
        }

        struct Query: Decodable {
            let embedding: [Float]
            let matches: [Threshold]
            let ranking: [Place]
        }

        let tolerance: Double
        let dimension: Int
        let identities: [Identity]
        let queries: [Query]
    }

    private let model = String(repeating: "0a", count: 32)
    private var folder = URL(fileURLWithPath: "/")

    override func setUpWithError() throws {
        folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
    }

    override func tearDownWithError() throws { try FileManager.default.removeItem(at: folder) }

    private func filled(_ file: File) throws -> Gallery {
        var gallery = try Gallery(modelSHA256: model, dimension: file.dimension)
        for identity in file.identities {
            for embedding in identity.embeddings { try gallery.add(embedding, to: identity.name) }
        }
        return gallery
    }

    func testMatchingEqualsPython() throws {
        let file = try vectors("gallery", as: File.self)
        let gallery = try filled(file)
        XCTAssertEqual(file.queries.count, 11)
        for query in file.queries {
            let ranking = try gallery.ranked(query.embedding)
            XCTAssertEqual(ranking.map(\.name), query.ranking.map(\.name))
            assertClose(ranking.map(\.distance), query.ranking.map(\.distance), file.tolerance)
            for one in query.matches {
                XCTAssertEqual(try gallery.match(query.embedding, threshold: one.threshold)?.name, one.name, "\(one)")
            }
        }
    }

    func testAFileGivesTheGalleryBack() throws {
        let gallery = try filled(vectors("gallery", as: File.self))
        let url = folder.appendingPathComponent("people.json")
        try gallery.write(to: url)
        XCTAssertEqual(try Gallery(contentsOf: url, modelSHA256: model), gallery)
        try gallery.write(to: url)  // over the old one
        XCTAssertEqual(try FileManager.default.contentsOfDirectory(atPath: folder.path), ["people.json"])
        let empty = try Gallery(modelSHA256: model, dimension: 512)
        try empty.write(to: url)
        XCTAssertTrue(try Gallery(contentsOf: url, modelSHA256: model).isEmpty)
    }

    func testRemovingForgetsEveryEmbedding() throws {
        var gallery = try filled(vectors("gallery", as: File.self))
        let asked = try XCTUnwrap(gallery.embeddings["Ada"]?.first)
        try gallery.remove("Ada")
        XCTAssertFalse(gallery.names.contains("Ada"))
        XCTAssertFalse(try gallery.ranked(asked).contains { $0.name == "Ada" })
        let url = folder.appendingPathComponent("people.json")
        try gallery.write(to: url)
        XCTAssertFalse(try String(contentsOf: url, encoding: .utf8).contains(#""Ada""#))
        assertRefused(#""Ada" must be in the gallery"#) { try gallery.remove("Ada") }
    }

    func testAnEmptyGalleryKnowsNobody() throws {
        XCTAssertNil(try Gallery(modelSHA256: model, dimension: 2).match([1, 0], threshold: 2))
    }

    func testWhatDoesNotFitIsRefusedAndLeavesTheGalleryAsItWas() throws {
        var gallery = try Gallery(modelSHA256: model, dimension: 2)
        try gallery.add([1, 0], to: "Ada")
        let before = gallery
        assertRefused("must have 2 numbers, but has 3") { try gallery.add([1, 0, 0], to: "Ada") }
        assertRefused("finite length above 0") { try gallery.add([0, 0], to: "Ada") }
        assertRefused("finite length above 0") { try gallery.add([.nan, 0], to: "Ada") }
        for name in ["", "  ", "a\nb", "a\u{2028}b", String(repeating: "x", count: 65)] {
            assertRefused("1 to 64 printable characters") { try gallery.add([1, 0], to: name) }
        }
        XCTAssertEqual(gallery, before)
        var joined = gallery
        XCTAssertNoThrow(try joined.add([1, 0], to: "a\u{200C}b"), "joiners are letters of some languages' names")
        assertRefused("must have 2 numbers") { try gallery.match([1], threshold: 1) }
        for threshold in [-0.1, 2.1, .nan] {
            assertRefused("a distance from 0 to 2") { try gallery.match([1, 0], threshold: threshold) }
        }
        for digest in ["", "abc", String(repeating: "A", count: 64), String(repeating: "g", count: 64)] {
            assertRefused("64 hexadecimal digits") { try Gallery(modelSHA256: digest, dimension: 2) }
        }
        for dimension in [0, -1, 4097] {
            assertRefused("1 to 4096 numbers") { try Gallery(modelSHA256: model, dimension: dimension) }
        }
    }

    func testAFullGalleryTakesNoMore() throws {
        var gallery = try Gallery(modelSHA256: model, dimension: 2, maxEmbeddings: 3)
        for name in ["Ada", "Ada", "Bo"] { try gallery.add([1, 0], to: name) }
        assertRefused("must have at most 3 embeddings") { try gallery.add([1, 0], to: "Ada") }
        try gallery.remove("Bo")
        XCTAssertNoThrow(try gallery.add([1, 0], to: "Ada"))
        // the limits hold together: base64 is 4 bytes for 3, a name has 64 characters of at most 12 bytes in JSON
        let largest = Gallery.maxNumbers * 4 / 3 * 4 + Gallery.maxEmbeddings * (Gallery.maxNameLength * 12 + 64)
        XCTAssertLessThan(largest, Gallery.maxFileBytes)
    }

    func testAnotherModelsFileIsRefused() throws {
        let url = folder.appendingPathComponent("people.json")
        try Gallery(modelSHA256: model, dimension: 2).write(to: url)
        assertRefused("embeddings of two models do not compare") {
            try Gallery(contentsOf: url, modelSHA256: String(repeating: "0b", count: 32))
        }
    }

    func testDamagedFilesAreRefused() throws {
        let ada = #"{"name": "Ada", "embeddings": ["AACAPwAAAAA="]}"#
        func text(_ identities: String, format: String = "edge-stra.gallery/1", dimension: Int = 2) -> String {
            #"{"format": "\#(format)", "model_sha256": "\#(model)", "dimension": \#(dimension), "identities": [\#(identities)]}"#
        }
        let url = folder.appendingPathComponent("people.json")
        try Data(text(ada).utf8).write(to: url)
        XCTAssertEqual(try Gallery(contentsOf: url, modelSHA256: model).embeddings, ["Ada": [[1, 0]]])
        let damaged: [(String, String)] = [
            ("", "must be a gallery"), ("[]", "must be a gallery"), ("{}", #"no "format""#),
            (String(text(ada).dropLast(3)), "must be a gallery"),
            (text(ada, format: "edge-stra.gallery/2"), "must be of format edge-stra.gallery/1, but says"),
            (text(ada, dimension: 3), "must have 3 numbers"), (text(ada, dimension: 5000), "1 to 4096"),
            (text(ada + "," + ada), #""Ada" must come once"#),
            (text(#"{"name": "Ada", "embeddings": []}"#), "with an embedding"),
            (text(#"{"name": "", "embeddings": ["AACAPwAAAAA="]}"#), "printable"),
            (text(#"{"name": "Ada", "embeddings": ["AACAPwAA"]}"#), "4 bytes"),
            (text(#"{"name": "Ada", "embeddings": ["?"]}"#), "must be a gallery"),
            (text(#"{"name": "Ada", "embeddings": ["AADAfwAAAAA="]}"#), "finite length"),  // NaN
        ]
        for (content, words) in damaged {
            try Data(content.utf8).write(to: url)
            assertRefused(words, content) { try Gallery(contentsOf: url, modelSHA256: model) }
        }
        try Data(count: Gallery.maxFileBytes + 1).write(to: url)
        assertRefused("must have at most 64 MiB") { try Gallery(contentsOf: url, modelSHA256: model) }
        assertRefused("must be a gallery's file") {
            try Gallery(contentsOf: folder.appendingPathComponent("absent.json"), modelSHA256: model)
        }
        assertRefused("must be a place that can be written") {
            try Gallery(modelSHA256: model, dimension: 2).write(to: folder.appendingPathComponent("no/people.json"))
        }
    }
}
