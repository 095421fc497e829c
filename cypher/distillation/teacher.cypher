// The teacher of a student, with what is calibrated for the two.
MATCH (:Model {id: $student})-[e:DISTILLED_FROM]->(teacher:Model)
RETURN teacher.id AS teacher, properties(e) AS properties
