// Package database gives tests, and the benchmarks, a SQL database of their own: SQLite in a file, or a private
// server of the installed PostgreSQL or MariaDB. A server listens on 127.0.0.1 on a free port,
// keeps its data in a temporary folder, and ends with the process that started it, also if that
// is killed. The service of the Debian package is never used. Every test gets an empty database.
//
// A server that is not installed runs in a container, if a Docker engine answers. Variables:
//
//	HAREBUS_DATABASES=container  only containers, also of what is installed
//	HAREBUS_POSTGRES_IMAGE       the image, default "postgres:17"
//	HAREBUS_MARIADB_IMAGE        the image, default "mariadb:11"
//
// A test is skipped if there is neither, unless HAREBUS_REQUIRE_BROKER is 1 or CI is
// true: then it fails. scripts/install-databases installs both, and the pooler pgbouncer, which is not run in a container.
package database
