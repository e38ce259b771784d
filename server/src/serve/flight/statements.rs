//! What calls ask for, and its answers.

use std::pin::Pin;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_cast::cast;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::metadata::SqlInfoDataBuilder;
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionClosePreparedStatementRequest, ActionCreatePreparedStatementRequest,
    ActionCreatePreparedStatementResult, CommandGetCatalogs, CommandGetDbSchemas,
    CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables, CommandPreparedStatementQuery,
    CommandPreparedStatementUpdate, CommandStatementQuery, CommandStatementUpdate,
    DoPutPreparedStatementResult, ProstMessageExt, SqlInfo, TicketStatementQuery,
};
use arrow_flight::{
    Action, FlightDescriptor, FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse,
    IpcMessage, SchemaAsIpc, Ticket,
};
use arrow_ipc::writer::IpcWriteOptions;
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use prost::Message;
use pugmark_query::sql::{SqlError, SqlStatement};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::super::answering::{Answering, Make, describe, stored};
use super::super::fault::Fault;
use super::super::keys::{Caller, Denied, Scope};
use super::super::queries::NotListed;
use super::super::service::{Refused, Service};
use super::handles::Handle;

/// The catalog and the schema of all tables.
const CATALOG: &str = "pugmark";
const SCHEMA: &str = "public";
const KIND: &str = "TABLE";

/// Answers calls.
pub(super) struct Statements {
    service: Arc<Service>,
}

type Rows = <Statements as FlightService>::DoGetStream;

impl Statements {
    pub(super) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }

    /// Who shows a key in a call's head, and may do this now.
    fn admit(&self, metadata: &MetadataMap, scope: Scope) -> Result<Caller, Status> {
        let mut refused = Refused::Denied(Denied::Unknown);
        // The key may be the user, or the password.
        let shown = shown(metadata);
        let keys = shown.iter().map(|key| Some(key.as_str()));
        for key in keys.chain(shown.is_empty().then_some(None)) {
            match self.service.admit(key, scope) {
                Ok(caller) => return Ok(caller),
                Err(Refused::Denied(Denied::Unknown)) => {}
                Err(other) => refused = other,
            }
        }
        Err(match refused {
            Refused::Denied(Denied::Unknown) => {
                Status::unauthenticated("show a key: as a Bearer token, or as the password")
            }
            Refused::Denied(Denied::Scope) => Status::permission_denied(refused.to_string()),
            Refused::TooMany(_) => Status::resource_exhausted(refused.to_string()),
        })
    }

    /// What will be told of a statement's rows, and where they are had.
    async fn info(
        &self,
        caller: Caller,
        statement: SqlStatement,
        ticket: Ticket,
        descriptor: FlightDescriptor,
    ) -> Result<Response<FlightInfo>, Status> {
        let schema = self.describe(caller, statement).await?;
        told(&schema, ticket, descriptor)
    }

    /// The columns of a statement.
    async fn describe(&self, caller: Caller, statement: SqlStatement) -> Result<SchemaRef, Status> {
        let session = Arc::new(self.service.session_of(&caller));
        let schema = describe(&self.service, caller, session, statement).await;
        Ok(plain(&schema.map_err(status)?))
    }

    /// The rows of a statement.
    async fn rows(
        &self,
        caller: Caller,
        statement: SqlStatement,
        sql: &str,
    ) -> Result<Response<Rows>, Status> {
        if statement.writes() {
            return Err(Status::invalid_argument(
                "a statement that writes is executed as an update",
            ));
        }
        let answering = self
            .begin(caller, statement, sql, |schema| {
                let schema = plain(schema);
                Ok(Box::new(move |batch| plainly(&batch, &schema)) as Make<RecordBatch>)
            })
            .await?;
        let schema = plain(&answering.schema);
        let batches = futures::stream::unfold(answering, |mut answering| async move {
            let batch = answering.next().await?;
            if let Ok(batch) = &batch {
                answering.sent(batch.num_rows() as u64);
            }
            let batch = batch.map_err(|error| FlightError::Tonic(Box::new(status(error))));
            Some((batch, answering))
        });
        let encoded = FlightDataEncoderBuilder::new()
            .with_schema(schema)
            .build(batches)
            .map_err(Status::from);
        Ok(Response::new(Box::pin(encoded)))
    }

    /// Runs a statement that stores events; their number.
    async fn update(
        &self,
        metadata: &MetadataMap,
        statement: SqlStatement,
        sql: &str,
    ) -> Result<i64, Status> {
        let caller = self.admit(metadata, Scope::Query)?;
        if statement.writes() {
            self.admit(metadata, Scope::Ingest)?;
        }
        let mut answering = self.begin(caller, statement, sql, stored).await?;
        let mut events = 0;
        while let Some(count) = answering.next().await {
            events += count.map_err(status)?;
        }
        Ok(i64::try_from(events).unwrap_or(i64::MAX))
    }

    async fn begin<P: Send + 'static>(
        &self,
        caller: Caller,
        statement: SqlStatement,
        sql: &str,
        make: impl FnOnce(&SchemaRef) -> Result<Make<P>, SqlError> + Send + 'static,
    ) -> Result<Answering<P>, Status> {
        let listed = self
            .service
            .queries
            .list(caller, sql)
            .map_err(|refused| match refused {
                NotListed::TooMany => {
                    Status::unavailable("too many statements wait; ask again in a second")
                }
                NotListed::Random(error) => Status::internal(error.to_string()),
            })?;
        let session = Arc::new(self.service.session_of(listed.running.caller()));
        let begun = Answering::begin(&self.service, session, statement, listed, make);
        begun.await.map_err(status)
    }
}

/// Some clients pad and some do not.
const ANY_PADDING: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The keys that a call's head may show.
fn shown(metadata: &MetadataMap) -> Vec<String> {
    let value = metadata
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    let Some((scheme, rest)) = value.and_then(|value| value.split_once(' ')) else {
        return Vec::new();
    };
    if scheme.eq_ignore_ascii_case("bearer") {
        return vec![rest.trim().to_owned()];
    }
    let decoded = ANY_PADDING.decode(rest.trim()).ok();
    let Some(decoded) = decoded.and_then(|decoded| String::from_utf8(decoded).ok()) else {
        return Vec::new();
    };
    let (user, password) = decoded.split_once(':').unwrap_or((&decoded, ""));
    let keys = [password, user].into_iter().filter(|key| !key.is_empty());
    keys.map(str::to_owned).collect()
}

/// What a statement without an answer is refused with.
fn status(error: SqlError) -> Status {
    let message = error.to_string();
    match Fault::of(&error) {
        Fault::Statement => Status::invalid_argument(message),
        Fault::Memory => Status::resource_exhausted(message),
        Fault::Time => Status::deadline_exceeded(message),
        Fault::Cancelled => Status::cancelled(message),
        Fault::Failed => Status::internal(message),
    }
}

/// The columns with types that all readers of Arrow know: texts are no views.
fn plain(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| {
        let data_type = plain_type(field.data_type());
        Field::new(field.name(), data_type, field.is_nullable())
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::List(inner) => {
            let data_type = plain_type(inner.data_type());
            DataType::List(Arc::new(Field::new(
                inner.name(),
                data_type,
                inner.is_nullable(),
            )))
        }
        other => other.clone(),
    }
}

fn plainly(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, SqlError> {
    let columns = batch.columns().iter().zip(schema.fields());
    let columns = columns.map(
        |(column, field)| match column.data_type() == field.data_type() {
            true => Ok(Arc::clone(column)),
            false => cast(column, field.data_type()),
        },
    );
    let options = arrow_array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    columns
        .collect::<Result<Vec<_>, _>>()
        .and_then(|columns| {
            RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        })
        .map_err(|error| {
            let error = pugmark_query::sql::DataFusionError::ArrowError(Box::new(error), None);
            SqlError::Engine(error)
        })
}

fn told(
    schema: &SchemaRef,
    ticket: Ticket,
    descriptor: FlightDescriptor,
) -> Result<Response<FlightInfo>, Status> {
    let info = FlightInfo::new()
        .try_with_schema(schema)
        .map_err(|error| Status::internal(error.to_string()))?
        .with_endpoint(FlightEndpoint::new().with_ticket(ticket))
        .with_descriptor(descriptor);
    Ok(Response::new(info))
}

fn ticket(command: &impl ProstMessageExt) -> Ticket {
    Ticket::new(command.as_any().encode_to_vec())
}

fn one_batch(batch: Result<RecordBatch, FlightError>) -> Result<Response<Rows>, Status> {
    let batch = batch.map_err(Status::from)?;
    let encoded = FlightDataEncoderBuilder::new()
        .with_schema(batch.schema())
        .build(futures::stream::iter([Ok(batch)]))
        .map_err(Status::from);
    Ok(Response::new(Box::pin(encoded)))
}

fn schema_bytes(schema: &Schema) -> Result<Bytes, Status> {
    let options = IpcWriteOptions::default();
    let message: IpcMessage = SchemaAsIpc::new(schema, &options)
        .try_into()
        .map_err(|error: arrow_schema::ArrowError| Status::internal(error.to_string()))?;
    Ok(message.0)
}

/// The statement of a ticket.
fn statement_of(bytes: &[u8]) -> Result<(SqlStatement, String), Status> {
    let handle = Handle::read(bytes)?;
    Ok((handle.statement().map_err(status)?, handle.sql))
}

/// The row of values that a call brings. What is packed is not unpacked: a few bytes could say that
/// they are many.
async fn values(request: Request<PeekableFlightDataStream>) -> Result<RecordBatch, Status> {
    let stream = request.into_inner().map_err(FlightError::from);
    let stream = stream.and_then(|data| async move {
        match well_formed(&data) {
            true => Ok(data),
            false => Err(FlightError::DecodeError(
                "the values are packed, or cut off".to_owned(),
            )),
        }
    });
    let mut batches = FlightRecordBatchStream::new_from_flight_data(stream);
    let mut values = None;
    while let Some(batch) = batches.try_next().await.map_err(Status::from)? {
        if batch.num_rows() > 0 && values.replace(batch).is_some() {
            break;
        }
    }
    values.ok_or_else(|| Status::invalid_argument("no values came"))
}

/// True where a message is not packed, and its buffers lie inside its body.
fn well_formed(data: &arrow_flight::FlightData) -> bool {
    let Ok(message) = arrow_ipc::root_as_message(&data.data_header) else {
        // One without a header only says what is asked for.
        return data.data_header.is_empty();
    };
    let batch = match message.header_type() {
        arrow_ipc::MessageHeader::RecordBatch => message.header_as_record_batch(),
        arrow_ipc::MessageHeader::DictionaryBatch => {
            let dictionary = message.header_as_dictionary_batch();
            dictionary.and_then(|dictionary| dictionary.data())
        }
        _ => return true,
    };
    let Some(batch) = batch else {
        return false;
    };
    let inside = |buffer: &arrow_ipc::Buffer| {
        let end = buffer.offset().checked_add(buffer.length());
        buffer.offset() >= 0
            && buffer.length() >= 0
            && end.is_some_and(|end| end as u64 <= data.data_body.len() as u64)
    };
    batch.compression().is_none()
        && batch
            .buffers()
            .is_none_or(|buffers| buffers.iter().all(inside))
}

#[tonic::async_trait]
impl FlightSqlService for Statements {
    type FlightService = Self;

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<
        Response<Pin<Box<dyn Stream<Item = Result<HandshakeResponse, Status>> + Send>>>,
        Status,
    > {
        self.admit(request.metadata(), Scope::Query)?;
        let keys = shown(request.metadata());
        let answer = HandshakeResponse {
            protocol_version: 0,
            payload: Bytes::new(),
        };
        let mut response: Response<Pin<Box<dyn Stream<Item = _> + Send>>> =
            Response::new(Box::pin(futures::stream::iter([Ok(answer)])));
        // The key is what is shown from now on: whichever of the two it was.
        let good = keys
            .iter()
            .find(|key| self.service.admit_quietly(Some(key), Scope::Query).is_ok());
        let token = format!("Bearer {}", good.map_or("anybody", String::as_str));
        let token = token
            .parse()
            .map_err(|_| Status::unauthenticated("the key is no text"))?;
        response.metadata_mut().insert("authorization", token);
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let caller = self.admit(request.metadata(), Scope::Query)?;
        let handle = Handle::new(query.query);
        let statement = handle.statement().map_err(status)?;
        let ticket = ticket(&TicketStatementQuery {
            statement_handle: handle.bytes()?,
        });
        self.info(caller, statement, ticket, request.into_inner())
            .await
    }

    async fn do_get_statement(
        &self,
        asked: TicketStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<Rows>, Status> {
        let caller = self.admit(request.metadata(), Scope::Query)?;
        let (statement, sql) = statement_of(&asked.statement_handle)?;
        self.rows(caller, statement, &sql).await
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let caller = self.admit(request.metadata(), Scope::Query)?;
        let handle = Handle::new(query.query);
        let (statement, parameters) = handle.sample(&self.service.session).map_err(status)?;
        let columns = self.describe(caller, statement).await?;
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle.bytes()?,
            dataset_schema: match columns.fields().is_empty() {
                true => Bytes::new(),
                false => schema_bytes(&columns)?,
            },
            parameter_schema: schema_bytes(&parameters)?,
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        _query: ActionClosePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<(), Status> {
        // Nothing was kept.
        self.admit(request.metadata(), Scope::Query).map(|_| ())
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        self.admit(request.metadata(), Scope::Query)?;
        let handle = Handle::read(&query.prepared_statement_handle)?;
        let handle = handle.with(&values(request).await?)?;
        Ok(DoPutPreparedStatementResult {
            prepared_statement_handle: Some(handle.bytes()?),
        })
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let caller = self.admit(request.metadata(), Scope::Query)?;
        let (statement, _) = statement_of(&query.prepared_statement_handle)?;
        let ticket = ticket(&query);
        self.info(caller, statement, ticket, request.into_inner())
            .await
    }

    async fn do_get_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<Ticket>,
    ) -> Result<Response<Rows>, Status> {
        let caller = self.admit(request.metadata(), Scope::Query)?;
        let (statement, sql) = statement_of(&query.prepared_statement_handle)?;
        self.rows(caller, statement, &sql).await
    }

    async fn do_put_statement_update(
        &self,
        update: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let statement = Handle::new(update.query.clone())
            .statement()
            .map_err(status)?;
        self.update(request.metadata(), statement, &update.query)
            .await
    }

    async fn do_put_prepared_statement_update(
        &self,
        update: CommandPreparedStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let (statement, sql) = statement_of(&update.prepared_statement_handle)?;
        self.update(request.metadata(), statement, &sql).await
    }

    async fn get_flight_info_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.admit(request.metadata(), Scope::Query)?;
        let ticket = ticket(&query);
        told(&query.into_builder().schema(), ticket, request.into_inner())
    }

    async fn do_get_catalogs(
        &self,
        query: CommandGetCatalogs,
        request: Request<Ticket>,
    ) -> Result<Response<Rows>, Status> {
        self.admit(request.metadata(), Scope::Query)?;
        let mut catalogs = query.into_builder();
        catalogs.append(CATALOG);
        one_batch(catalogs.build())
    }

    async fn get_flight_info_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.admit(request.metadata(), Scope::Query)?;
        let ticket = ticket(&query);
        told(&query.into_builder().schema(), ticket, request.into_inner())
    }

    async fn do_get_schemas(
        &self,
        query: CommandGetDbSchemas,
        request: Request<Ticket>,
    ) -> Result<Response<Rows>, Status> {
        self.admit(request.metadata(), Scope::Query)?;
        let mut schemas = query.into_builder();
        schemas.append(CATALOG, SCHEMA);
        one_batch(schemas.build())
    }

    async fn get_flight_info_tables(
        &self,
        query: CommandGetTables,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.admit(request.metadata(), Scope::Query)?;
        let ticket = ticket(&query);
        told(&query.into_builder().schema(), ticket, request.into_inner())
    }

    async fn do_get_tables(
        &self,
        query: CommandGetTables,
        request: Request<Ticket>,
    ) -> Result<Response<Rows>, Status> {
        self.admit(request.metadata(), Scope::Query)?;
        let mut tables = query.into_builder();
        for (name, schema) in self.service.session.tables().map_err(status)? {
            let appended = tables.append(CATALOG, SCHEMA, name, KIND, &plain(&schema));
            appended.map_err(Status::from)?;
        }
        one_batch(tables.build())
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.admit(request.metadata(), Scope::Query)?;
        let ticket = ticket(&query);
        told(&query.into_builder().schema(), ticket, request.into_inner())
    }

    async fn do_get_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<Ticket>,
    ) -> Result<Response<Rows>, Status> {
        self.admit(request.metadata(), Scope::Query)?;
        let mut kinds = query.into_builder();
        kinds.append(KIND);
        one_batch(kinds.build())
    }

    async fn get_flight_info_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        self.admit(request.metadata(), Scope::Query)?;
        let info = sql_info()?;
        let ticket = ticket(&query);
        told(
            &query.into_builder(&info).schema(),
            ticket,
            request.into_inner(),
        )
    }

    async fn do_get_sql_info(
        &self,
        query: CommandGetSqlInfo,
        request: Request<Ticket>,
    ) -> Result<Response<Rows>, Status> {
        self.admit(request.metadata(), Scope::Query)?;
        let info = sql_info()?;
        one_batch(query.into_builder(&info).build())
    }

    async fn register_sql_info(&self, _id: i32, _info: &SqlInfo) {}
}

/// What clients want to know of the service.
fn sql_info() -> Result<arrow_flight::sql::metadata::SqlInfoData, Status> {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "Pugmark");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, "1.3");
    info.append(SqlInfo::FlightSqlServerReadOnly, false);
    info.append(SqlInfo::FlightSqlServerSql, true);
    info.append(SqlInfo::FlightSqlServerSubstrait, false);
    // None.
    info.append(SqlInfo::FlightSqlServerTransaction, 0_i32);
    info.append(SqlInfo::FlightSqlServerCancel, false);
    info.build()
        .map_err(|error| Status::internal(error.to_string()))
}
