"""How the service is watched: Prometheus, Alertmanager and Grafana, and what makes and draws their files."""
