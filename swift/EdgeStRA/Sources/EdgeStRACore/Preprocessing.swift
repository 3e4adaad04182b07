import Foundation

extension Picture {
    /// What an image input of the model takes: the whole picture (or crop) made grey where the model is, at its size.
    ///
    /// Throws `EdgeStRAError.data` where the picture is grey and the model wants RGB.
    public func prepared(for input: InputSpecification) throws -> Picture {
        if input.color == .grey { return try grey().resizedExact(to: input.size) }
        guard channels == 3 else {
            throw EdgeStRAError.data("the model takes RGB, but the picture has 1 channel; pass a picture with 3")
        }
        return try resizedExact(to: input.size)
    }

    /// The normalised tensor [1, H, W, 3] of `to_input` in edge_stra/preprocess.py, for runtimes without image inputs.
    ///
    /// A model in Core ML's format takes `prepared(for:)` and normalises inside.
    public func tensor(for input: InputSpecification) throws -> [Float] {
        let picture = try prepared(for: input)
        var tensor = [Float]()
        tensor.reserveCapacity(picture.size.height * picture.size.width * 3)
        for pixel in 0..<picture.size.height * picture.size.width {
            for channel in 0..<3 {
                let byte = picture.pixels[pixel * picture.channels + (picture.channels == 3 ? channel : 0)]
                tensor.append((Float(byte) / 255 - input.meanRGB[channel]) / input.stdRGB[channel])
            }
        }
        return tensor
    }
}
