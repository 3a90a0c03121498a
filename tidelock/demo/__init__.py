"""The demo: simulated people edit records in several systems at once; afterwards every system is compared with the merged records."""
