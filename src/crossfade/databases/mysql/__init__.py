"""MySQL and MariaDB: `database.MysqlDatabase`."""
