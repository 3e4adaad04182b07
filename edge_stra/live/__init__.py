"""The values that flow through a live app, and what it remembers of people between frames."""
