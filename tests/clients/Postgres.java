// The PostgreSQL JDBC driver against the service. Takes its URL. Says what failed and exits with 1.

import java.io.StringWriter;
import java.sql.*;
import java.util.*;
import org.postgresql.PGConnection;

public class Postgres {
    static void same(Object found, Object wanted) {
        if (!Objects.equals(found, wanted)) {
            throw new AssertionError("found  " + found + "\nwanted " + wanted);
        }
    }

    static List<String> column(ResultSet rows, String name) throws SQLException {
        List<String> found = new ArrayList<>();
        while (rows.next()) {
            found.add(rows.getString(name));
        }
        return found;
    }

    public static void main(String[] args) throws Exception {
        try (Connection connection = DriverManager.getConnection(args[0])) {
            DatabaseMetaData about = connection.getMetaData();
            same(about.getDatabaseProductName(), "PostgreSQL");
            same(column(about.getTables(null, "public", "%", new String[] {"TABLE"}), "TABLE_NAME"),
                List.of("events", "users"));
            same(column(about.getSchemas(), "TABLE_SCHEM").contains("public"), true);
            same(column(about.getColumns(null, "public", "users", "%"), "COLUMN_NAME").get(0), "user_id");
            same(column(about.getPrimaryKeys(null, "public", "events"), "COLUMN_NAME"), List.of());
            same(column(about.getIndexInfo(null, "public", "events", false, false), "INDEX_NAME"), List.of());
            same(column(about.getImportedKeys(null, "public", "events"), "FKCOLUMN_NAME"), List.of());
            same(column(about.getTypeInfo(), "TYPE_NAME").contains("int8"), true);
            String funnel = "SELECT step, users, median_seconds FROM funnel(step(event = ?), step(event = ?), "
                + "within => INTERVAL '1 hour') ORDER BY step";
            // The fifth time and later it is prepared on the server, and binary.
            try (PreparedStatement statement = connection.prepareStatement(funnel)) {
                for (int round = 0; round < 8; round++) {
                    statement.setString(1, "view");
                    statement.setString(2, round % 2 == 0 ? "cart" : "purchase");
                    ResultSet rows = statement.executeQuery();
                    rows.next();
                    same(rows.getLong("users"), 100L);
                    rows.next();
                    same(rows.getLong("users"), round % 2 == 0 ? 100L : 50L);
                }
            }
            String counted = "SELECT count(*) FROM events WHERE price > ? AND size < ? AND time >= ? AND event = ANY(?)";
            try (PreparedStatement statement = connection.prepareStatement(counted)) {
                for (int round = 0; round < 8; round++) {
                    statement.setDouble(1, 10);
                    statement.setInt(2, 20);
                    statement.setObject(3, java.time.OffsetDateTime.parse("2026-01-01T00:00:00Z"));
                    statement.setArray(4, connection.createArrayOf("text", new String[] {"cart", "purchase"}));
                    ResultSet rows = statement.executeQuery();
                    rows.next();
                    same(rows.getInt(1), 15);
                }
            }
            connection.setAutoCommit(false);
            try (Statement statement = connection.createStatement()) {
                statement.setFetchSize(40);
                ResultSet rows = statement.executeQuery("SELECT user_id, time, price, tags FROM events WHERE event <> 'extra' ORDER BY time, event");
                int seen = 0;
                while (rows.next()) {
                    seen++;
                    same(((String[]) rows.getArray("tags").getArray())[1], "b");
                }
                same(seen, 350);
                Savepoint point = connection.setSavepoint("here");
                try {
                    statement.executeQuery("SELECT nothing FROM users");
                    throw new AssertionError("a column that there is not was read");
                } catch (SQLException error) {
                    same(error.getMessage().contains("nothing"), true);
                }
                connection.rollback(point);
                same(statement.executeQuery("SELECT 1").next(), true);
            }
            connection.commit();
            connection.setAutoCommit(true);
            StringWriter copied = new StringWriter();
            connection.unwrap(PGConnection.class).getCopyAPI()
                .copyOut("COPY (SELECT DISTINCT event FROM events WHERE size > 50 ORDER BY 1) TO STDOUT", copied);
            same(copied.toString(), "cart\npurchase\nview\n");
            try (Statement statement = connection.createStatement()) {
                statement.setQueryTimeout(1);
                statement.executeQuery("SELECT count(*) FROM events a, events b, events c, events d "
                    + "WHERE a.price + b.price + c.price + d.price = 1");
                throw new AssertionError("a statement of centuries ended");
            } catch (SQLException error) {
                same(error.getSQLState(), "57014");
            }
        }
    }
}
