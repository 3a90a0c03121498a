"""The shared core of tidelock: words, topics, codecs, configuration, errors. It imports none of the flow packages."""

__version__ = "0.1.0"
