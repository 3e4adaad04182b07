import Foundation

/// A crop of a known person: identity above 0; 0 is a distractor and -1 junk, as Market-1501 has it.
public struct LabelledEmbedding: Equatable, Sendable {
    public let embedding: [Float]
    public let identity: Int
    public let camera: Int

    public init(embedding: [Float], identity: Int, camera: Int) {
        self.embedding = embedding
        self.identity = identity
        self.camera = camera
    }
}

/// Mean average precision and rank-1, 5 and 10 in percent, and how many queries had something to find.
public struct RankingReport: Equatable, Sendable {
    public let meanAveragePrecision: Double
    public let rank1: Double
    public let rank5: Double
    public let rank10: Double
    public let queries: Int
}

/// Market-1501's single-query protocol, as `rank` in edge_stra/evaluation/ranking.py: unit embeddings, ties never flatter.
///
/// Throws `EdgeStRAError.data` where no query has a right crop from another camera, where a query is junk or a
/// distractor, or where embeddings differ in length or are not finite.
public func rank(_ queries: [LabelledEmbedding], in gallery: [LabelledEmbedding]) throws -> RankingReport {
    let all = queries + gallery
    guard let length = all.first?.embedding.count,
        all.allSatisfy({ $0.embedding.count == length && $0.embedding.allSatisfy { $0.isFinite } })
    else {
        throw EdgeStRAError.data("embeddings must be finite numbers, of one length, but are not")
    }
    guard queries.allSatisfy({ $0.identity > 0 }) else {
        throw EdgeStRAError.data("every query must be of a known identity, but one is a distractor (0) or junk (-1)")
    }
    let found = queries.compactMap { averagePrecision($0, in: gallery.filter { $0.identity != -1 }) }
    guard !found.isEmpty else {
        throw EdgeStRAError.data(
            "no query has a crop of its identity from another camera in the gallery; is it the right one?")
    }
    func share(_ places: Int) -> Double {
        100 * Double(found.filter { $0.wrongBeforeFirst < places }.count) / Double(found.count)
    }
    return RankingReport(
        meanAveragePrecision: 100 * found.reduce(0) { $0 + $1.precision } / Double(found.count),
        rank1: share(1), rank5: share(5), rank10: share(10), queries: found.count)
}

private func averagePrecision(
    _ query: LabelledEmbedding, in gallery: [LabelledEmbedding]
) -> (precision: Double, wrongBeforeFirst: Int)? {
    func likeness(_ shown: LabelledEmbedding) -> Float {
        zip(query.embedding, shown.embedding).reduce(0) { $0 + $1.0 * $1.1 }
    }
    let right = gallery.filter { $0.identity == query.identity && $0.camera != query.camera }.map(likeness).sorted(
        by: >)
    guard !right.isEmpty else { return nil }
    let wrong = gallery.filter { $0.identity != query.identity }.map(likeness).sorted(by: >)
    let before = right.map { value in wrong.prefix { $0 >= value }.count }
    let precision = before.enumerated().reduce(0.0) { sum, place in
        sum + Double(place.offset + 1) / Double(place.offset + 1 + place.element)
    }
    return (precision / Double(right.count), before[0])
}
