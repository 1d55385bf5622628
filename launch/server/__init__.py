"""The HTTP server in front of batchers: OpenAI's API, written straight onto ASGI.

A web framework's routing and validation took more than half of the time of a request, so there is none: a table of
routes, one reader of bodies, and the wire format that clients share.
"""
