// The teacher of a student, with what is calibrated for the two.
MATCH (:MatchGraphModel {id: $student})-[e:DISTILLED_FROM]->(teacher:MatchGraphModel)
RETURN teacher.id AS teacher, properties(e) AS properties
