"""The web page of `noisemill ui`: an ASGI application that reads Redis and datasets, and a static page."""
