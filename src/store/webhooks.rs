//! Destinations of webhooks, how far each has come, and their deliveries. What the records say is the floor above's.

use rusqlite::{Connection, OptionalExtension, Row};

use super::{Store, StoreError, bounded, id};
use crate::ids::{DeliveryId, DestinationId, SessionId};

/// A destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDestination {
    /// Its id.
    pub id: DestinationId,
    /// Of which session.
    pub session: SessionId,
    /// What the floor above made of it.
    pub record: String,
    /// Up to which `seq` it is done.
    pub cursor: u64,
}

/// A delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredDelivery {
    /// Its id.
    pub id: DeliveryId,
    /// Where to.
    pub destination: DestinationId,
    /// Of which session.
    pub session: SessionId,
    /// The event's place.
    pub seq: u64,
    /// What the floor above made of it.
    pub record: String,
}

const COLUMNS: &str = "id, destination, session, seq, record";

impl Store {
    /// Stores a destination, or its new record; the cursor of one that is there stays.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of every write.
    pub async fn put_destination(&self, destination: StoredDestination) -> Result<(), StoreError> {
        bounded("record", &destination.record)?;
        self.write(move |connection| {
            let sql = "INSERT INTO destinations (id, session, record, cursor) VALUES (?1, ?2, ?3, ?4)
                       ON CONFLICT (id) DO UPDATE SET record = excluded.record";
            let StoredDestination { id, session, record, cursor } = &destination;
            connection.prepare_cached(sql)?.execute((id.as_str(), session.as_str(), record, cursor.cast_signed()))
        })
        .await
        .map(drop)
    }

    /// The destinations, of one session or of all, oldest first.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn destinations(&self, session: Option<SessionId>) -> Result<Vec<StoredDestination>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT id, session, record, cursor FROM destinations
                       WHERE ?1 IS NULL OR session = ?1 ORDER BY number";
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_map([session.as_ref().map(SessionId::as_str)], |row| {
                let cursor = row.get::<_, i64>(3)?.cast_unsigned();
                Ok(StoredDestination { id: id(row, 0)?, session: id(row, 1)?, record: row.get(2)?, cursor })
            })?;
            found.collect()
        })
        .await
    }

    /// Removes a destination and its deliveries.
    ///
    /// # Errors
    /// Those of every write.
    pub async fn remove_destination(&self, destination: &DestinationId) -> Result<(), StoreError> {
        let destination = destination.clone();
        let remove = move |connection: &Connection| {
            connection.prepare_cached("DELETE FROM destinations WHERE id = ?1")?.execute([destination.as_str()])
        };
        self.write(remove).await.map(drop)
    }

    /// Stores a delivery or how it stands now, and moves the destination's cursor, in one transaction. Of a destination
    /// that is gone nothing is stored.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of every write.
    pub async fn put_delivery(&self, delivery: StoredDelivery, cursor: Option<u64>) -> Result<(), StoreError> {
        bounded("record", &delivery.record)?;
        self.write(move |connection| put_delivery(connection, &delivery, cursor)).await
    }

    /// The newest deliveries of a session, to one destination or to all; of those that began before one of them.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn deliveries(
        &self,
        session: &SessionId,
        destination: Option<DestinationId>,
        before: Option<DeliveryId>,
        limit: usize,
    ) -> Result<Vec<StoredDelivery>, StoreError> {
        let session = session.clone();
        self.read(move |connection| {
            let sql = format!(
                "SELECT {COLUMNS} FROM deliveries
                 WHERE session = ?1 AND (?2 IS NULL OR destination = ?2)
                   AND (?3 IS NULL OR number < (SELECT number FROM deliveries WHERE id = ?3))
                 ORDER BY number DESC LIMIT ?4"
            );
            let mut statement = connection.prepare_cached(&sql)?;
            let destination = destination.as_ref().map(DestinationId::as_str);
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let before = before.as_ref().map(DeliveryId::as_str);
            let found = statement.query_map((session.as_str(), destination, before, limit), delivery)?;
            found.collect()
        })
        .await
    }

    /// A delivery of a session.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn delivery(&self, session: &SessionId, id: &DeliveryId) -> Result<Option<StoredDelivery>, StoreError> {
        let (session, id) = (session.clone(), id.clone());
        self.read(move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM deliveries WHERE id = ?1 AND session = ?2");
            connection.prepare_cached(&sql)?.query_row((id.as_str(), session.as_str()), delivery).optional()
        })
        .await
    }

    /// The delivery of an event to a destination, if one was begun.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn delivery_of(
        &self,
        destination: &DestinationId,
        seq: u64,
    ) -> Result<Option<StoredDelivery>, StoreError> {
        let destination = destination.clone();
        self.read(move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM deliveries WHERE destination = ?1 AND seq = ?2");
            let mut statement = connection.prepare_cached(&sql)?;
            statement.query_row((destination.as_str(), seq.cast_signed()), delivery).optional()
        })
        .await
    }
}

/// Stores a destination of a session that has no events yet.
pub(super) fn add(
    connection: &Connection,
    destination: &DestinationId,
    session: &SessionId,
    record: &str,
) -> rusqlite::Result<()> {
    let sql = "INSERT INTO destinations (id, session, record, cursor) VALUES (?1, ?2, ?3, 0)";
    connection.prepare_cached(sql)?.execute((destination.as_str(), session.as_str(), record)).map(drop)
}

fn put_delivery(connection: &Connection, delivery: &StoredDelivery, cursor: Option<u64>) -> rusqlite::Result<()> {
    let StoredDelivery { id, destination, session, seq, record } = delivery;
    let sql = "INSERT INTO deliveries (id, destination, session, seq, record)
               SELECT ?1, ?2, ?3, ?4, ?5 WHERE EXISTS (SELECT 1 FROM destinations WHERE id = ?2)
               ON CONFLICT (id) DO UPDATE SET record = excluded.record";
    let row = (id.as_str(), destination.as_str(), session.as_str(), seq.cast_signed(), record);
    connection.prepare_cached(sql)?.execute(row)?;
    if let Some(cursor) = cursor {
        let sql = "UPDATE destinations SET cursor = max(cursor, ?2) WHERE id = ?1";
        connection.prepare_cached(sql)?.execute((destination.as_str(), cursor.cast_signed()))?;
    }
    Ok(())
}

fn delivery(row: &Row<'_>) -> rusqlite::Result<StoredDelivery> {
    Ok(StoredDelivery {
        id: id(row, 0)?,
        destination: id(row, 1)?,
        session: id(row, 2)?,
        seq: row.get::<_, i64>(3)?.cast_unsigned(),
        record: row.get(4)?,
    })
}
