"""What an agent shows of itself: metrics, web endpoints, live page, dashboards."""
