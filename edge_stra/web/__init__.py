"""The web page of a live app: pictures, events and settings over HTTP, by aiohttp in a thread of its own."""
