// swift-tools-version: 5.9
// An app package: open this folder in Xcode 15 or later (its name ends in .swiftpm) and run it on a phone.
import AppleProductTypes
import PackageDescription

let package = Package(
    name: "EdgeStRADemo",
    platforms: [.iOS("16.0")],
    products: [
        .iOSApplication(
            name: "EdgeStRADemo",
            targets: ["EdgeStRADemo"],
            bundleIdentifier: "org.example.EdgeStRADemo",
            teamIdentifier: "",
            displayVersion: "1.0",
            bundleVersion: "1",
            appIcon: .placeholder(icon: .camera),
            accentColor: .presetColor(.blue),
            supportedDeviceFamilies: [.phone, .pad],
            supportedInterfaceOrientations: [.portrait],
            capabilities: [
                // becomes NSCameraUsageDescription
                .camera(
                    purposeString:
                        "Faces and people are recognised on this device. No picture is stored, and nothing leaves the phone."
                )
            ]
        )
    ],
    dependencies: [.package(name: "EdgeStRA", path: "../..")],
    targets: [
        .executableTarget(
            name: "EdgeStRADemo",
            dependencies: [
                .product(name: "EdgeStRA", package: "EdgeStRA"), .product(name: "EdgeStRACore", package: "EdgeStRA"),
            ],
            path: ".",
            sources: ["Sources"],
            resources: [.copy("Models"), .copy("PrivacyInfo.xcprivacy")]
        )
    ]
)
