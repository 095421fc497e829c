// Remove a dataset with its results, similarities, statistics and runs. A worker that is still at such a run finds it gone.
// Run after lock.cypher in one transaction.
MATCH (d:MatchGraphDataset {id: $id})
OPTIONAL MATCH (d)<-[:ON]-(run:MatchGraphRun)
WITH d, collect(run) AS runs
OPTIONAL MATCH (d)-[:DESCRIBED_BY]->(s:MatchGraphStatistics)
WITH d, runs, collect(s) AS statistics
FOREACH (n IN runs + statistics | DETACH DELETE n)
DETACH DELETE d
