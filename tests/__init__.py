"""The tests, by what they ask: see STYLE.md."""
