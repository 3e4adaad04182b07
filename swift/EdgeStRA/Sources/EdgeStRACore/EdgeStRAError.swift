import Foundation

/// This package's errors: one line that says what was expected, what came, what to do.
public enum EdgeStRAError: Error, Equatable, Sendable {
    /// Pictures, boxes, numbers or names that can't be used.
    case data(String)
    /// A model whose specification is damaged, unknown, or does not fit the task.
    case artifact(String)
    /// A gallery's file that is damaged, too large, or of another model.
    case gallery(String)
    /// A place that can't be written.
    case output(String)

    public var message: String {
        switch self {
        case .data(let text), .artifact(let text), .gallery(let text), .output(let text): return text
        }
    }
}

extension EdgeStRAError: LocalizedError, CustomStringConvertible {
    public var errorDescription: String? { message }
    public var description: String { message }
}

/// Text from outside inside a message: in quotes, short, on one line.
package func quoted(_ text: String) -> String {
    String(text.prefix(64)).debugDescription
}
