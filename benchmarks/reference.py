"""The published algorithms, written plainly by us: what everything is compared with, in time and in result."""
