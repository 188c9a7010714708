"""The search on the CPU: Faiss scans our codes, and what Faiss leaves open is settled here."""
