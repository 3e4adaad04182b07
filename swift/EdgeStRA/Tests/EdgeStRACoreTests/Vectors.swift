import Foundation
import XCTest

@testable import EdgeStRACore

/// Reads a file of Vectors/, which scripts/swift_vectors.py writes from the Python side.
func vectors<Content: Decodable>(_ name: String, as type: Content.Type) throws -> Content {
    let url = try XCTUnwrap(Bundle.module.url(forResource: name, withExtension: "json", subdirectory: "Vectors"))
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    return try decoder.decode(type, from: Data(contentsOf: url))
}

/// The picture that `pattern` in scripts/swift_vectors.py draws.
struct Pattern: Decodable {
    let height: Int
    let width: Int
    let channels: Int
    let seed: Int

    func drawn() throws -> Picture {
        var pixels = [UInt8]()
        for y in 0..<height {
            for x in 0..<width {
                for c in 0..<channels {
                    let squares: Int = 5 * y * y + 3 * x * x + 7 * x * y
                    let slow: Int = squares + c * (640 + 97 * x + 231 * y) + 977 * seed
                    let fast: Int = (x * (seed + 3) + y * 11) % 23
                    pixels.append(UInt8((slow / 16 + fast) % 256))
                }
            }
        }
        return try Picture(size: PixelSize(height: height, width: width), channels: channels, pixels: pixels)
    }
}

/// A result as Python has it: size, hash, and the bytes where they are few.
struct Held: Decodable {
    let height: Int
    let width: Int
    let fnv1a: String
    let base64: Data?

    func check(_ picture: Picture, _ message: String, file: StaticString = #filePath, line: UInt = #line) {
        XCTAssertEqual(picture.size, PixelSize(height: height, width: width), message, file: file, line: line)
        if let base64 { XCTAssertEqual(picture.pixels, [UInt8](base64), message, file: file, line: line) }
        XCTAssertEqual(hash(picture.pixels), fnv1a, message, file: file, line: line)
    }
}

/// The 64-bit Fowler-Noll-Vo hash, variant 1a.
func hash(_ bytes: [UInt8]) -> String {
    var value: UInt64 = 0xCBF2_9CE4_8422_2325
    for byte in bytes { value = (value ^ UInt64(byte)) &* 0x100_0000_01B3 }
    let digits = String(value, radix: 16)
    return String(repeating: "0", count: 16 - digits.count) + digits
}

/// Asserts that a call throws one of our errors, with these words in it.
func assertRefused<T>(
    _ words: String, _ message: String = "", file: StaticString = #filePath, line: UInt = #line,
    _ call: () throws -> T
) {
    XCTAssertThrowsError(try call(), message, file: file, line: line) { error in
        let text = (error as? EdgeStRAError)?.message ?? ""
        XCTAssertTrue(text.contains(words), "\(error) \(message)", file: file, line: line)
        XCTAssertFalse(text.contains("\n"), file: file, line: line)
    }
}

func assertClose(
    _ a: [Double], _ b: [Double], _ tolerance: Double, _ message: String = "", file: StaticString = #filePath,
    line: UInt = #line
) {
    XCTAssertEqual(a.count, b.count, message, file: file, line: line)
    for (one, other) in zip(a, b) { XCTAssertEqual(one, other, accuracy: tolerance, message, file: file, line: line) }
}
