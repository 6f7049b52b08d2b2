//! Two replicators over the loopback interface, with data planes that are tables in memory.
