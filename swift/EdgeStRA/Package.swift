// swift-tools-version: 5.9
import PackageDescription

let package = Package(
    name: "EdgeStRA",
    platforms: [.iOS(.v16), .macOS(.v13)],
    products: [
        .library(name: "EdgeStRACore", targets: ["EdgeStRACore"]),
        .library(name: "EdgeStRA", targets: ["EdgeStRA"]),
    ],
    targets: [
        // Foundation alone: builds and is tested wherever Swift runs.
        .target(name: "EdgeStRACore"),
        // Core ML and Vision, every file behind `#if canImport(CoreML)`: an empty module elsewhere.
        .target(name: "EdgeStRA", dependencies: ["EdgeStRACore"]),
        .testTarget(name: "EdgeStRACoreTests", dependencies: ["EdgeStRACore"], resources: [.copy("Vectors")]),
    ]
)
