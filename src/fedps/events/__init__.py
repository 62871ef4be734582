"""What a run tells of itself: events, their journal, and the summary made of them."""
