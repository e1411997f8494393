"""What GA4 wants and says: batches, requests, outcomes. Pure: no I/O, no clock."""
