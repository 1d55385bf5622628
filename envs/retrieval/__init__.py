"""Retrieval: corpora of page images, retrievers over them, and worlds in which tools are called in conversation."""
