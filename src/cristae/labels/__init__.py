"""Labels: runs, the tables made of them, and exact facts of every instance."""
