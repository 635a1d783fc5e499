"""Our stages against the published algorithms written plainly: same inputs, same process, in turns. See docs/speed.md."""
