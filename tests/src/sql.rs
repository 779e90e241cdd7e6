//! SQL over a socket, blocking, without `psql`.

use std::path::Path;

use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// An open session. Ends when dropped.
#[derive(Debug)]
pub struct Session {
    runtime: Runtime,
    client: Client,
}

impl Session {
    /// Opens a session on the server whose socket lies in `socket_dir`.
    ///
    /// # Errors
    ///
    /// What the server or the socket says.
    pub fn open(
        socket_dir: &Path,
        user: &str,
        database: &str,
    ) -> Result<Self, tokio_postgres::Error> {
        Self::with(Config::new().host_path(socket_dir), user, database)
    }

    /// The same on the server that listens on this port of the loopback address.
    ///
    /// # Errors
    ///
    /// What the server or the network says.
    pub fn over_tcp(port: u16, user: &str, database: &str) -> Result<Self, tokio_postgres::Error> {
        Self::with(Config::new().host("127.0.0.1").port(port), user, database)
    }

    fn with(
        config: &mut Config,
        user: &str,
        database: &str,
    ) -> Result<Self, tokio_postgres::Error> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime needs only file descriptors");
        config.user(user).dbname(database);
        let client = runtime.block_on(async {
            let (client, connection) = config.connect(NoTls).await?;
            tokio::spawn(connection);
            Ok::<_, tokio_postgres::Error>(client)
        })?;
        Ok(Self { runtime, client })
    }

    /// Runs statements and gives the rows of all of them, as text.
    ///
    /// # Errors
    ///
    /// What the server answers.
    pub fn try_rows(&self, sql: &str) -> Result<Vec<Vec<String>>, tokio_postgres::Error> {
        let messages = self.runtime.block_on(self.client.simple_query(sql))?;
        Ok(messages
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(
                    (0..row.len())
                        .map(|column| row.get(column).unwrap_or("NULL").to_owned())
                        .collect(),
                ),
                _ => None,
            })
            .collect())
    }

    /// As [`try_rows`](Self::try_rows), for statements that must succeed.
    pub fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        self.try_rows(sql).unwrap_or_else(|error| {
            let detail = error.as_db_error().map(ToString::to_string);
            panic!("`{sql}` failed: {error} {}", detail.unwrap_or_default())
        })
    }

    /// Runs statements that must succeed.
    pub fn run(&self, sql: &str) {
        self.rows(sql);
    }

    /// The one value that a query gives.
    pub fn value(&self, sql: &str) -> String {
        let rows = self.rows(sql);
        match &rows[..] {
            [row] if row.len() == 1 => row[0].clone(),
            _ => panic!("`{sql}` did not give one value: {rows:?}"),
        }
    }

    /// A line for each table of the users: name, number of rows, and a hash of
    /// the rows in an order of their own. Two databases with the same lines
    /// have the same data.
    pub fn digest(&self) -> String {
        let tables = self.rows(
            "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c \
             JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema') \
             ORDER BY 1",
        );
        let mut lines = String::new();
        for table in tables.iter().map(|row| &row[0]) {
            let sum = self.rows(&format!(
                "SELECT count(*), md5(coalesce(string_agg(t::text, E'\\n' \
                 ORDER BY t::text COLLATE \"C\"), '')) FROM ONLY {table} t"
            ));
            lines.push_str(&format!("{table} {} {}\n", sum[0][0], sum[0][1]));
        }
        lines
    }

    /// Reads all rows of all tables, those of the system and TOAST tables too:
    /// the server verifies the checksum of every page on the way.
    pub fn read_every_table(&self) {
        // Or some would be counted in an index.
        self.run("SET enable_indexonlyscan = off");
        let tables =
            self.rows("SELECT oid::regclass FROM pg_class WHERE relkind IN ('r', 't', 'm')");
        for table in tables.iter().map(|row| &row[0]) {
            self.run(&format!("SELECT count(*) FROM {table}"));
        }
    }
}
