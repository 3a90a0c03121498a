"""Benchmarks: this project against Debezium with its JDBC sink and against PostgreSQL's own logical replication."""
